"""A data directory as replays, reports and backups see it, whether or not a gateway runs on it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.clock import SystemClock
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentDirectory
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from gateway.compose.directory import DataDirectory
from gateway.compose.parts import runtimes_of
from gateway.core.errors import StoreFailed
from gateway.settings import Settings, settings_from_body

if TYPE_CHECKING:
    from gateway.replay.past import Past


@contextlib.contextmanager
def opened_past(root: Path) -> Iterator[Past]:
    """Yield what a replay reads of a data directory, whether or not a gateway runs on it; nothing of it is changed.

    Raises:
        StoreFailed: there is no registry, or it cannot be read.
    """
    from adapters.archives.duck import DuckArchive
    from adapters.detectors.river import AdwinDetector
    from adapters.logs.codec import decode
    from gateway.replay.past import Past

    data, settings = DataDirectory(root), Settings()
    if not data.registry.is_file():
        raise StoreFailed(f"there is no registry in {root}", hint="name the gateway's --data-dir")
    if data.settings.is_file():
        settings = settings_from_body(json.loads(data.settings.read_text()))
    registry = SqliteRegistry(data.registry, clock=SystemClock())
    archive = DuckArchive(data.archive, memory_bytes=settings.archive.memory_bytes)
    artifacts = DirectoryArtifacts(data.artifacts)
    with tempfile.TemporaryDirectory(prefix="headgate-replay-") as scratch:
        try:
            yield Past(
                archive=archive,
                log=SegmentReader(data.log),
                registry=registry,
                artifacts=artifacts,
                runtimes=runtimes_of(settings, artifacts, Path(scratch)),
                detector=AdwinDetector,
                decode=decode,
                monitor=settings.monitor,
            )
        finally:
            archive.close()
            registry.close()


def back_up(root: Path, to: Path) -> int:
    """Write a consistent copy of a data directory, whether or not a gateway runs on it; return its bytes.

    Raises:
        StoreFailed: there is no registry, or the copy cannot be written.
    """
    from adapters.archives.duck import DuckArchive
    from adapters.backups import BackupDirectory
    from gateway.backup import back_up as backed_up

    data = DataDirectory(root)
    if not data.registry.is_file():
        raise StoreFailed(f"there is no registry in {root}", hint="name the gateway's --data-dir")
    if to.resolve().is_relative_to(root.resolve()):
        raise StoreFailed(f"{to} is inside {root}, of which it is to be a copy", hint="name a directory outside")
    registry, checkpoints = SqliteRegistry(data.registry, clock=SystemClock()), SqliteCheckpoints(data.checkpoints)
    archive = DuckArchive(data.archive, memory_bytes=Settings().archive.memory_bytes)
    try:
        return backed_up(
            BackupDirectory(to, also=[path for path in (data.secret,) if path.exists()]),
            registry=registry,
            checkpoints=checkpoints,
            artifacts=DirectoryArtifacts(data.artifacts),
            segments=SegmentDirectory(data.log),
            archive=archive,
            clock=SystemClock(),
        )
    finally:
        archive.close()
        checkpoints.close()
        registry.close()


def restore(backup: Path, root: Path) -> int:
    """Make a data directory of a backup; return its files.

    Raises:
        StoreFailed: it is no whole backup, or the directory is not empty.
    """
    from adapters.backups import BackupDirectory

    return BackupDirectory(backup).restore(root)
