"""Notices by e-mail, through one SMTP server."""

from __future__ import annotations

import contextlib
import io
import logging
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from adapters.senders.names import looked_up
from gateway.core.errors import DeliveryFailed
from gateway.core.notices import Message, Severity

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_TIMEOUT_S: Final = 20.0  # of one e-mail, from looking the server's name up to its last reply; some greet after five seconds
_REPLIES_BYTES_MAX: Final = 65_536  # of one conversation; a talkative server takes 2 kB
_journal = logging.getLogger(__name__)
_NAMELESS: Final = "[127.0.0.1]"  # how a machine without a whole name greets


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
            with contextlib.closing(_Conversation(self._server, until_s=time.monotonic() + _TIMEOUT_S)) as smtp:
                smtp.begin()
                refused = smtp.send_message(mail)
                with contextlib.suppress(OSError, smtplib.SMTPException):  # it is taken, however they part
                    smtp.quit()
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryFailed(f"{type(error).__name__}: {error}") from error
        for recipient, (status, _) in refused.items():  # the others have it: sending it again would be to them
            extra = {"action": "go on", "notice": message.id, "recipient": recipient, "status": status}
            _journal.warning("A mail server refused one recipient of a notice", extra=extra)


class _Conversation(smtplib.SMTP):
    """A conversation with an end: the library bounds each wait, and neither their number nor a reply's lines."""

    def __init__(self, server: MailServer, *, until_s: float) -> None:
        """Connect.

        Args:
            until_s: Of the monotonic clock; then it is over, whatever was said.

        Raises:
            OSError, SMTPException: there is no server, or it does not greet.
        """
        self._server = server
        self._until_s = until_s
        here = socket.gethostname()  # the library would ask the resolver for more
        super().__init__(server.host, server.port, local_hostname=here if "." in here else _NAMELESS)

    def begin(self) -> None:
        """Encrypt where the server offers it, and say who we are where it asks.

        Raises:
            SMTPNotSupportedError: a password would be sent in the clear.
        """
        self.ehlo()
        is_encrypted = self._server.is_encrypted
        if not is_encrypted and self.has_extn("starttls"):
            self.starttls(context=ssl.create_default_context())
            is_encrypted = True
        if self._server.user:
            if not is_encrypted:
                raise smtplib.SMTPNotSupportedError("the server offers no STARTTLS, and a password is not sent in the clear")
            self.login(self._server.user, self._server.password)

    def send(self, s: ReadableBuffer | str) -> None:
        """Send a command or a mail."""
        if self.sock is not None:
            self.sock.settimeout(self._left_s())
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply."""
        if self.file is None:
            assert self.sock is not None, "it is connected"
            self.file = io.BufferedReader(_Replies(self.sock, self._left_s))
        return super().getreply()

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
        """Connect to the first of the server's addresses that answers; the library calls it."""
        try:
            found = looked_up(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM).result(self._left_s())
        except TimeoutError:
            raise TimeoutError(f"nobody says where {host} is") from None
        refused: OSError = OSError(f"{host} has no address")
        for place in found:
            try:
                return self._encrypted(socket.create_connection(place[4][:2], self._left_s()))
            except OSError as error:
                refused = error
        raise refused

    def _encrypted(self, sock: socket.socket) -> socket.socket:
        """Return the socket, encrypted if its server is so from the first byte on."""
        if not self._server.is_encrypted:
            return sock
        sock.settimeout(self._left_s())
        return ssl.create_default_context().wrap_socket(sock, server_hostname=self._server.host)

    def _left_s(self) -> float:
        if (left_s := self._until_s - time.monotonic()) > 0.0:
            return left_s
        raise TimeoutError("the server takes too long")


class _Replies(io.RawIOBase):
    """What a server says, up to a time and a number of bytes."""

    def __init__(self, sock: socket.socket, left_s: Callable[[], float]) -> None:
        self._sock = sock
        self._left_s = left_s
        self._left_bytes = _REPLIES_BYTES_MAX

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what is there, or wait for it.

        Raises:
            TimeoutError: time or bytes are used up.
        """
        if self._left_bytes <= 0:
            raise TimeoutError("the server talks without end")
        self._sock.settimeout(self._left_s())
        count = self._sock.recv_into(buffer, min(memoryview(buffer).nbytes, self._left_bytes))
        self._sock.settimeout(self._left_s())  # of what comes before the next reply: a handshake
        self._left_bytes -= count
        return count


def _message_id(id: str) -> str:
    safe = "".join(character if character.isascii() and (character.isalnum() or character in ".-") else "-" for character in id)
    return f"<{safe}@headgate>"
