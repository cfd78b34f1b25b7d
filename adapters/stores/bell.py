"""Wakes every process that waits for the registry: a Unix datagram to each socket in one directory.

Only a shortcut: a datagram says "look again", never what happened, so a lost one costs the waiter its next poll and nothing
else. Nothing here blocks a committer and nothing here raises.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ADDRESS_BYTES_MAX: Final = 107  # of a Unix socket's path (sun_path), without its final zero


class Ear:
    """One waiter's socket; without one (no Unix sockets here) it only sleeps."""

    def __init__(self, receiver: socket.socket | None, path: Path) -> None:
        self._receiver = receiver
        self._path = path

    def drain(self) -> None:
        """Forget what arrived so far."""
        if self._receiver is None:
            return
        self._receiver.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                self._receiver.recv(1)

    def wait(self, timeout_s: float) -> None:
        """Return when the bell rang, or after `timeout_s`."""
        if self._receiver is None:
            time.sleep(timeout_s)
            return
        self._receiver.settimeout(timeout_s)
        with contextlib.suppress(OSError):
            self._receiver.recv(1)
        self.drain()

    def close(self) -> None:
        """Remove the socket."""
        if self._receiver is not None:
            self._path.unlink(missing_ok=True)
            self._receiver.close()


class Bell:
    """The sockets of one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._idle: list[Ear] = []
        self._numbers = itertools.count()
        self._prefix = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._is_closed = False
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def ring(self) -> None:
        """Wake every waiter; remove the sockets of the dead."""
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                self._call(Path(entry.path))

    @contextmanager
    def listening(self) -> Iterator[Ear]:
        """Lend an ear that hears every ring from now on. It is one waiter's alone, so that two threads both wake."""
        with self._lock:
            ear = self._idle.pop() if self._idle else None
        if ear is None:
            ear = self._new_ear()
        ear.drain()
        try:
            yield ear
        finally:
            self._give_back(ear)

    def close(self) -> None:
        """Wake the waiters and close what is idle; the others close when they are given back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        self.ring()
        for ear in idle:
            ear.close()
        self._sender.close()

    def _call(self, path: Path) -> None:
        try:
            with _short(path) as address:
                self._sender.sendto(b"!", address)
        except ConnectionRefusedError:  # its process is gone
            path.unlink(missing_ok=True)
        except OSError:  # a full buffer wakes its owner anyway; a socket that went meanwhile needs nothing
            return

    def _new_ear(self) -> Ear:
        path = self._directory / f"{self._prefix}-{next(self._numbers)}"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            with _short(path) as address:
                receiver.bind(address)
        except OSError:
            receiver.close()
            return Ear(None, path)
        return Ear(receiver, path)

    def _give_back(self, ear: Ear) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(ear)
                return
        ear.close()


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield an address for a socket's path that fits; a long one goes by way of its open directory."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
