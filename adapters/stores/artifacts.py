"""Artifacts as read-only files named by their digest.

A file is complete before it gets its name, and its bytes are read and compared before anyone gets its path, so that what loads
is what was registered. An unchanged file is read once per process.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Final

from adapters.durability import flush
from gateway.core.errors import ArtifactCorrupt, StoreFailed
from gateway.core.models import Digest

STAGED_S_MAX: Final = 86_400.0  # an upload that nobody finished in a day is abandoned
READ_ONLY: Final = 0o444
Identity = tuple[int, int, int, int]  # of a file's bytes: inode, size, and when contents and inode last changed


class DirectoryArtifacts:
    """An `ArtifactStore` in one directory, shared by every process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._staging = directory / "staging"  # the same file system, so that a rename is enough
        self._verified: dict[Digest, Identity] = {}
        with _writing(directory):
            self._staging.mkdir(parents=True, exist_ok=True)

    def put(self, staged: PurePath, digest: Digest) -> None:
        """Verify, make read-only, sync, then rename into place."""
        path = Path(staged)
        with _writing(path):
            _refuse_other_bytes(path, digest)
            path.chmod(READ_ONLY)
            flush(path)
            path.replace(self._directory / _checked(digest))  # the same bytes may be there already
            flush(self._directory)

    def staging(self) -> PurePath:
        """Make a file in `staging/`, and remove what was abandoned there."""
        with _writing(self._staging):
            self._remove_abandoned()
            descriptor, path = tempfile.mkstemp(dir=self._staging)
            os.close(descriptor)
        return PurePath(path)

    def path(self, digest: Digest) -> PurePath:
        """Hash the file unless it is the very one that was hashed before."""
        path = self._directory / _checked(digest)
        try:
            identity = _identity(path)
            if self._verified.get(digest) != identity:
                _refuse_other_bytes(path, digest)
                self._verified[digest] = identity
        except FileNotFoundError as error:
            raise ArtifactCorrupt(f"artifact {digest} is missing", hint="restore the data directory's artifacts/") from error
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}") from error
        return path

    def backup(self, to: PurePath) -> None:
        """Copy the files that have a digest for a name; they never change."""
        with _writing(Path(to)):
            Path(to).mkdir(mode=0o700, parents=True)
            for path in sorted(self._directory.iterdir()):
                if path.is_file():
                    shutil.copy2(path, Path(to) / path.name)

    def _remove_abandoned(self) -> None:
        for path in self._staging.iterdir():
            if time.time() - path.stat().st_mtime > STAGED_S_MAX:  # a file's times are the machine's
                path.unlink(missing_ok=True)


def _checked(digest: Digest) -> Digest:
    """Return the digest if it is one, and so names no other file."""
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ArtifactCorrupt(f"{digest[:80]!r} is no sha256 digest")
    return digest


def _refuse_other_bytes(path: Path, digest: Digest) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise ArtifactCorrupt(f"the bytes of artifact {digest} have the digest {found}")


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}") from error
