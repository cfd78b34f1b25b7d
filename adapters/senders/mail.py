"""Notices by e-mail, through one SMTP server."""

from __future__ import annotations

import io
import smtplib
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from gateway.core.errors import DeliveryFailed
from gateway.core.notices import Message, Severity

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_TIMEOUT_S: Final = 10.0  # of connecting, of all replies after it, however slowly they come, and of all after STARTTLS
_REPLIES_BYTES_MAX: Final = 65_536  # of one conversation; a talkative server takes 2 kB


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
            smtp: smtplib.SMTP = _EncryptedSmtp(
                server.host, server.port, timeout=_TIMEOUT_S, context=ssl.create_default_context()
            )
        else:
            smtp = _PlainSmtp(server.host, server.port, timeout=_TIMEOUT_S)
            smtp.ehlo()
            if smtp.has_extn("starttls"):
                smtp.starttls(context=ssl.create_default_context())
        if server.user:
            smtp.login(server.user, server.password)
        return smtp


class _Replies(io.RawIOBase):
    """What a server says, up to a time and a number of bytes."""

    def __init__(self, sock: socket.socket, *, until_s: float) -> None:
        self._sock = sock
        self._until_s = until_s
        self._left_bytes = _REPLIES_BYTES_MAX

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what is there, or wait for it.

        Raises:
            TimeoutError: time or bytes are used up.
        """
        left_s = self._until_s - time.monotonic()
        if left_s <= 0.0 or self._left_bytes <= 0:
            raise TimeoutError("the server talks without end")
        self._sock.settimeout(left_s)  # of all that is sent from here on, too
        count = self._sock.recv_into(buffer, min(memoryview(buffer).nbytes, self._left_bytes))
        self._left_bytes -= count
        return count


class _PlainSmtp(smtplib.SMTP):
    """A conversation with an end: the library bounds each wait, and neither their number nor a reply's lines."""

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply."""
        if self.file is None:
            assert self.sock is not None, "it is connected"
            self.file = io.BufferedReader(_Replies(self.sock, until_s=time.monotonic() + _TIMEOUT_S))
        return super().getreply()


class _EncryptedSmtp(_PlainSmtp, smtplib.SMTP_SSL):
    """The same, encrypted from the first byte on."""


def _message_id(id: str) -> str:
    safe = "".join(character if character.isascii() and (character.isalnum() or character in ".-") else "-" for character in id)
    return f"<{safe}@headgate>"
