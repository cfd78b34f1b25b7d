"""A backup: a directory with a copy of what a gateway keeps, and `backup.json`, which names every file with size and digest.

The list is written last, so that a directory without it is no backup. A restore reads every byte against it and shows the new
data directory only when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final

from adapters.durability import flush
from gateway.core.errors import StoreFailed

FORMAT: Final = 1
_LIST: Final = "backup.json"


class BackupDirectory:
    """One backup on a file system. A `BackupStore`.

    Args:
        also: Files to put beside what the gateway's stores copy there.
    """

    def __init__(self, directory: Path, *, also: Sequence[Path] = ()) -> None:
        self._directory = directory.absolute()
        self._also = also

    def begin(self) -> PurePath:
        """Make the directory, for the owner alone."""
        with _errors(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(self._directory.iterdir()):
                raise StoreFailed(f"{self._directory} is not empty", hint="name a new directory for each backup")
            for path in self._also:
                shutil.copy2(path, self._directory)
        return self._directory

    def seal(self, taken_at_s: float) -> int:
        """Hash every file, make all of them durable and write the list."""
        files: dict[str, tuple[int, str]] = {}
        with _errors(self._directory):
            for path in sorted(self._directory.rglob("*")):
                if path.is_file():
                    files[str(path.relative_to(self._directory))] = (path.stat().st_size, _digest(path))
                flush(path)
            staged = self._directory / (_LIST + ".new")
            staged.write_text(json.dumps({"format": FORMAT, "taken_at_s": taken_at_s, "files": files}, indent=1))
            flush(staged)
            staged.rename(self._directory / _LIST)
            flush(self._directory)
            flush(self._directory.parent)
        return sum(size for size, _ in files.values())

    def restore(self, to: PurePath) -> int:
        """Copy beside the new data directory, compare every byte, then rename."""
        target = Path(to).absolute()
        partial = target.with_name(target.name + ".partial")
        with _errors(target):
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise StoreFailed(f"{target} is not empty", hint="restore into a new directory, or move this one away first")
            if partial.exists():
                shutil.rmtree(partial)  # of a restore that did not end
            partial.mkdir(mode=0o700, parents=True)
            files = self._listed()
            for name, (size, digest) in files.items():
                _copy(self._directory / name, partial / name, size, digest)
            for directory in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
                flush(directory)
            if target.exists():
                target.rmdir()
            partial.rename(target)
            flush(target.parent)
        return len(files)

    def _listed(self) -> Mapping[str, tuple[int, str]]:
        try:
            body = json.loads((self._directory / _LIST).read_bytes())
        except FileNotFoundError as error:
            raise StoreFailed(f"{self._directory} is no backup, or one that did not end: it has no {_LIST}") from error
        except ValueError as error:
            raise StoreFailed(f"{self._directory / _LIST}: {error}") from error
        if body.get("format") != FORMAT:
            raise StoreFailed(f"backup format {body.get('format')!r} is unknown; this program reads {FORMAT}")
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in body["files"].items()}
        if outside := [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise StoreFailed(f"{self._directory / _LIST} names {outside[0]!r}, which is not in the backup")
        return files


def _copy(source: Path, to: Path, size: int, digest: str) -> None:
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    to.chmod(source.stat().st_mode & 0o777)
    if to.stat().st_size != size or _digest(to) != digest:
        raise StoreFailed(f"{source} is not as it was when the backup was made", hint="restore another backup")
    os.utime(to, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))  # by which the log's segments grow old
    flush(to)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFailed(f"{error.filename or path}: {error.strerror}") from error
