"""Whose turn it is to load, as a lock on a file that all workers open. It goes with the process that held it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gateway.core.errors import StoreFailed


class FileLoadLock:
    """One worker's end of the lock; used by one thread."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}") from error
        self._holders = 0

    def try_take(self) -> bool:
        """Lock without waiting."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another worker's; or no lock can be had here, and then nobody waits for ever
            return False
        self._holders += 1
        return True

    def release(self) -> None:
        """Unlock with the last that took it."""
        self._holders -= 1
        if self._holders == 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)
