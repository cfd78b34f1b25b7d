"""A channel's URL → what sends to it.

`https://…` and `http://…` post JSON, `cloudevents+https://…` CloudEvents, `slack+https://…` to Slack, `pagerduty://KEY` to
PagerDuty, `smtp://user:password@host:port?from=…&to=…` and `smtps://…` by e-mail; every other scheme is the library's. `secret`
in a webhook's query signs what is posted, and `source` tells the events of several gateways apart.
"""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlencode, urlsplit, urlunsplit

from adapters.senders.mail import Mail, MailServer
from adapters.senders.other import Other
from adapters.senders.web import PAGERDUTY_URL, SOURCE, CloudEvents, PagerDuty, Slack, Webhook
from gateway.core.errors import MalformedRequest
from gateway.core.notices import Channel
from gateway.ports.notices import Sender


def opened_sender(channel: Channel) -> Sender:
    """Return what sends to a channel; nothing is sent yet.

    Raises:
        MalformedRequest: the URL is incomplete, or nothing here speaks its scheme.
    """
    try:
        parts = urlsplit(channel.url)
        asked = parse_qs(parts.query)
        port = parts.port
    except ValueError as error:
        raise MalformedRequest(f"notices.{channel.name}.url: {error}") from None
    match parts.scheme:
        case "http" | "https":
            secret = asked.pop("secret", [""])[0]
            return Webhook(urlunsplit(parts._replace(query=urlencode(asked, doseq=True))), secret=secret)
        case "cloudevents+http" | "cloudevents+https":
            secret, source = (asked.pop(name, [default])[0] for name, default in (("secret", ""), ("source", SOURCE)))
            plain = parts._replace(scheme=parts.scheme.partition("+")[2], query=urlencode(asked, doseq=True))
            return CloudEvents(urlunsplit(plain), source=source, secret=secret)
        case "slack+http" | "slack+https":
            return Slack(channel.url.removeprefix("slack+"))
        case "pagerduty":
            return PagerDuty(parts.netloc, url=asked.get("endpoint", [PAGERDUTY_URL])[0])
        case "smtp" | "smtps":
            is_encrypted = parts.scheme == "smtps"
            sender, recipients = asked.get("from", [""])[0], asked.get("to", [])
            if not parts.hostname or not sender or not recipients or not "".join((sender, *recipients)).isprintable():
                raise MalformedRequest(
                    f"notices.{channel.name}.url: expected smtp://host:port?from=…&to=…, with `to` once or more"
                )
            user, password = unquote(parts.username or ""), unquote(parts.password or "")
            server = MailServer(parts.hostname, port or (465 if is_encrypted else 25), is_encrypted, user, password)
            return Mail(server, sender=sender, recipients=recipients)
        case _:
            return Other(channel.url)
