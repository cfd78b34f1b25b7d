"""The monitor's picture in one small JSON file that is replaced as a whole; a file for each of its processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import orjson

from gateway.core.errors import StoreFailed
from gateway.core.fields import Json
from gateway.core.pictures import joined

OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


class ReadingsFile:
    """A `Readings` for two processes of one machine. NaN and infinities are read back as null."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, readings: Json) -> None:
        """Replace the file."""
        partial = self._path.with_name(self._path.name + ".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(orjson.dumps(readings, option=OPTIONS))
            partial.replace(self._path)  # no fsync: after power loss the monitor soon publishes again
        except OSError as error:
            raise StoreFailed(f"{self._path}: {error.strerror}") from error

    def latest(self) -> Json | None:
        """Read the file."""
        try:
            return cast("Json", orjson.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError) as error:
            raise StoreFailed(f"{self._path}: {error}") from error


class ReadingsFiles:
    """What several processes show, for whoever reads it: one picture of them all. Publishing is theirs, one by one."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Read the files of processes."""
        self._files = {process: ReadingsFile(path) for process, path in paths.items()}

    def latest(self) -> Json | None:
        """Read the files; of a single process its picture as it is."""
        found = {process: file.latest() for process, file in self._files.items()}
        return joined(found) if len(found) > 1 else next(iter(found.values()))
