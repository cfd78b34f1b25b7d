"""Notices over HTTP: a webhook that gets JSON, CloudEvents, Slack's incoming webhooks, and PagerDuty's Events API v2."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import string
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import orjson

from adapters.senders.names import Addresses, looked_up
from gateway.core.errors import DeliveryFailed
from gateway.core.fields import Json
from gateway.core.notices import Message, Notice, Severity, notice_body

PAGERDUTY_URL: Final = "https://events.pagerduty.com/v2/enqueue"
SOURCE: Final = "/headgate"  # of events, where the channel names none
_TIMEOUT_S: Final = 10.0  # of one exchange, from looking the name up on, however slowly the other side writes
_EVENTS_TIMEOUT_S: Final = 25.0  # of all the exchanges of one message; within the port's 30 s
_TAKEN_MAX: Final = 1_000  # events; beyond it some come twice
_PAGERDUTY_SEVERITIES: Final = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "critical"}
_SUMMARY_LENGTH_MAX: Final = 1_024  # PagerDuty's own bound
_SLACK_LENGTH_MAX: Final = 3_000  # of a text that Slack shows whole
_PLAIN: Final = string.punctuation.replace("%", "") + " "  # what a header holds as it is, beside letters and digits


class Webhook:
    """Posts the message's body; with a secret, `Headgate-Signature: sha256=…` is the HMAC of what was posted."""

    def __init__(self, url: str, *, secret: str = "") -> None:
        self._url = url
        self._secret = secret.encode()

    def send(self, message: Message) -> None:
        """Post it; its id is also the `Idempotency-Key`, percent-encoded where it is not ASCII."""
        content = orjson.dumps(message.body())
        _post(self._url, content, {"idempotency-key": quote(message.id, safe=_PLAIN), **_signed(content, self._secret)})


class CloudEvents:
    """Posts one event of CloudEvents 1.0 a notice, in the structured mode; `source` and `id` together name it for good."""

    def __init__(self, url: str, *, source: str, secret: str = "") -> None:
        self._url = url
        self._source = source
        self._secret = secret.encode()
        self._taken: set[str] = set()  # of messages that were not taken whole; the next attempt goes on after them

    def send(self, message: Message) -> None:
        """Post the notices in order; one that is refused keeps back those after it."""
        until_s = time.monotonic() + _EVENTS_TIMEOUT_S
        for notice in message.notices:
            if notice.id not in self._taken:
                content = orjson.dumps(self._event(notice))
                headers = {"content-type": "application/cloudevents+json", **_signed(content, self._secret)}
                _post(self._url, content, headers, timeout_s=min(_TIMEOUT_S, until_s - time.monotonic()))
                self._taken.add(notice.id)
        self._taken.difference_update(notice.id for notice in message.notices)
        if len(self._taken) > _TAKEN_MAX:  # of messages that were given up
            self._taken.clear()

    def _event(self, notice: Notice) -> Json:
        data = {name: value for name, value in notice_body(notice).items() if name != "details"}
        event: Json = {
            "specversion": "1.0",
            "id": notice.id,
            "source": self._source,
            "type": f"headgate.{notice.kind}",
            "time": datetime.fromtimestamp(notice.time_s, UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": {**data, **notice.details},
        }
        return {**event, "subject": notice.route} if notice.route else event


class Slack:
    """Posts to an incoming webhook."""

    def __init__(self, url: str) -> None:
        self._url = url

    def send(self, message: Message) -> None:
        """Post title and text as plain text, so that no name in it becomes a link or a mention."""
        text = f"{message.title}\n{message.text}"[:_SLACK_LENGTH_MAX]
        for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, escaped)
        _post(self._url, orjson.dumps({"text": text, "mrkdwn": False}), {})


class PagerDuty:
    """Triggers and resolves; an incident here is an incident there, by its deduplication key."""

    def __init__(self, routing_key: str, *, url: str = PAGERDUTY_URL) -> None:
        self._routing_key = routing_key
        self._url = url

    def send(self, message: Message) -> None:
        """Send one event."""
        event: Json = {
            "routing_key": self._routing_key,
            "event_action": "resolve" if message.is_over else "trigger",
            "dedup_key": message.incident,
            "payload": {
                "summary": message.title[:_SUMMARY_LENGTH_MAX],
                "source": message.notices[-1].route or "headgate",
                "severity": _PAGERDUTY_SEVERITIES[message.severity],
                "custom_details": message.body(),
            },
        }
        _post(self._url, orjson.dumps(event), {})


def _signed(content: bytes, secret: bytes) -> dict[str, str]:
    """Return the header that proves who posted it; none without a secret."""
    if not secret:
        return {}
    return {"headgate-signature": "sha256=" + hmac.new(secret, content, hashlib.sha256).hexdigest()}


def _post(url: str, content: bytes, headers: Mapping[str, str], *, timeout_s: float | None = None) -> None:
    """Post, following nothing: a redirect would take the notice and its secrets elsewhere.

    Raises:
        DeliveryFailed: it was not answered with 2xx in time.
    """
    try:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            status = runner.run(
                _status(
                    url, content, {"content-type": "application/json", **headers}, _TIMEOUT_S if timeout_s is None else timeout_s
                )
            )
    except TimeoutError as error:
        raise DeliveryFailed("it did not answer in time") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeliveryFailed(f"{type(error).__name__}: {error}") from error
    if not 200 <= status < 300:
        raise DeliveryFailed(f"it answered {status}")


async def _status(url: str, content: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
    """Return the status of the answer, whose body is not read: it could be without end."""
    async with (
        asyncio.timeout(timeout_s),
        httpx.AsyncClient() as client,
        client.stream("POST", url, content=content, headers=headers, timeout=None) as answer,  # it is bounded as a whole
    ):
        return answer.status_code


class _Loop(asyncio.SelectorEventLoop):
    """A loop that can be left while the resolver hangs; the library's own waits for it as it ends."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Addresses:
        """Look a name up."""
        return await asyncio.wrap_future(looked_up(host, port, family, type, proto, flags), loop=self)
