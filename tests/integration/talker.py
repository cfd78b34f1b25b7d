"""A server on loopback that talks without end, as no well-behaved one does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

SAID_BYTES_MAX = 2**30  # so that whoever listens to the end fails the test, and not the machine


class Talker:
    """A real server that says `opening`, and `more` again and again for as long as somebody listens.

    Attributes:
        connections: That were made to it.
    """

    def __init__(self, opening: bytes, more: bytes, *, every_s: float = 0.0) -> None:
        self._opening, self._more, self._every_s = opening, more, every_s
        self._said_bytes = 0
        self.connections = 0

    def start(self) -> int:
        """Listen; return the port."""
        self._server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return self._server.getsockname()[1]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.sendall(self._opening)
            while self._said_bytes < SAID_BYTES_MAX:
                connection.sendall(self._more)
                self._said_bytes += len(self._more)
                time.sleep(self._every_s)

    def close(self) -> None:
        """Speak to nobody any more."""
        self._server.close()
