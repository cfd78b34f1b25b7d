"""Notices by e-mail, through one SMTP server."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from typing import Final

from gateway.core.errors import DeliveryFailed
from gateway.core.notices import Message, Severity

_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class MailServer:
    """An SMTP server and how it is spoken to.

    Attributes:
        is_encrypted: From the first byte on, as on port 465; else STARTTLS is used where the server offers it.
        user: Empty for a server that asks for none.
    """

    host: str
    port: int
    is_encrypted: bool = False
    user: str = ""
    password: str = ""


class Mail:
    """Sends each message as one e-mail; the e-mails of an incident are one thread."""

    def __init__(self, server: MailServer, *, sender: str, recipients: Sequence[str]) -> None:
        self._server = server
        self._sender = sender
        self._recipients = list(recipients)

    def send(self, message: Message) -> None:
        """Hand it to the server."""
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = self._sender, ", ".join(self._recipients), " ".join(message.title.split())
        mail["Date"], mail["Message-ID"] = formatdate(), _message_id(message.id)
        mail["References"] = _message_id(message.incident)
        if message.severity is Severity.CRITICAL:
            mail["Importance"] = "high"
        mail.set_content(message.text)
        try:
            with self._connected() as smtp:
                smtp.send_message(mail)
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryFailed(f"{type(error).__name__}: {error}") from error

    def _connected(self) -> smtplib.SMTP:
        server = self._server
        if server.is_encrypted:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                server.host, server.port, timeout=_TIMEOUT_S, context=ssl.create_default_context()
            )
        else:
            smtp = smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT_S)
            smtp.ehlo()
            if smtp.has_extn("starttls"):
                smtp.starttls(context=ssl.create_default_context())
        if server.user:
            smtp.login(server.user, server.password)
        return smtp


def _message_id(id: str) -> str:
    safe = "".join(character if character.isascii() and (character.isalnum() or character in ".-") else "-" for character in id)
    return f"<{safe}@headgate>"
