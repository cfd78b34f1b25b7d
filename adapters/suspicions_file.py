"""What is remembered of inputs that end processes, in one small JSON file that all workers share."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from gateway.core.errors import MalformedRequest, StoreFailed
from gateway.core.poison import Suspicions, suspicions_body, suspicions_from_body


class SuspicionsFile:
    """One process's end. A file that is gone or cannot be understood remembers nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def news(self) -> Suspicions | None:
        """Read the file if it is another than the last time."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            seen = (0, 0)
        except OSError as error:
            raise StoreFailed(f"{self._path}: {error.strerror}") from error
        else:
            seen = (found.st_ino, found.st_mtime_ns)  # each writing is another file
        if seen == self._seen:
            return None
        self._seen = seen
        return self._read()

    def change(self, change: Callable[[Suspicions], Suspicions]) -> None:
        """Read, change and replace the file under a lock of its own; no fsync, since a power loss ends the workers as well."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                before = self._read()
                if (after := change(before)) != before:
                    partial = self._path.with_name(self._path.name + ".partial")
                    partial.write_text(json.dumps(suspicions_body(after)))
                    partial.replace(self._path)
            finally:
                os.close(lock)
        except OSError as error:
            raise StoreFailed(f"{self._path}: {error.strerror}") from error

    def _read(self) -> Suspicions:
        try:
            return suspicions_from_body(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return ()
        except (MalformedRequest, ValueError):  # written by nobody here; the next death replaces it
            return ()
        except OSError as error:
            raise StoreFailed(f"{self._path}: {error.strerror}") from error
