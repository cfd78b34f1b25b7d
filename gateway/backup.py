"""A copy of everything that a gateway keeps, of one moment as far as anybody can tell, while it goes on.

What refers to something is copied after it, or so that it refers to less than there is: the monitor's position before the log,
which may be longer; the archive before the log, whose segments go only once they are archived; the registry after the log, whose
anchors name audit entries; artifacts last, since versions name them.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from gateway.core.errors import StoreFailed
from gateway.ports.archive import Archive
from gateway.ports.clock import Clock
from gateway.ports.log import SegmentStore
from gateway.ports.stores import ArtifactStore, BackupStore, CheckpointStore, RegistryStore

TRIES: Final = 5  # for archive and log to meet; segments stay for an hour after they are archived, unless the disk is full


def back_up(
    to: BackupStore,
    *,
    registry: RegistryStore,
    checkpoints: CheckpointStore,
    artifacts: ArtifactStore,
    segments: SegmentStore,
    archive: Archive,
    clock: Clock,
) -> int:
    """Write a backup and return its bytes.

    Raises:
        StoreFailed, LogFailed, ArchiveFailed: something could not be read or written; what there is of it is no backup.
    """
    place = to.begin()
    archive.backup(place / "archive")  # what takes long; only what comes meanwhile is copied again
    checkpoints.backup(place / "checkpoints.db")
    _copy_log(place, archive, segments)
    registry.backup(place / "registry.db")
    artifacts.backup(place / "artifacts")
    return to.seal(clock.now_s())


def _copy_log(place: PurePath, archive: Archive, segments: SegmentStore) -> None:
    """Copy archive and log so that each stream's log begins no later than its archive ends."""
    for _ in range(TRIES):
        taken = archive.backup(place / "archive")
        firsts = segments.backup(place / "log")
        if all(first <= taken.get(stream, 0) for stream, first in firsts.items()):
            return
    raise StoreFailed("the log's segments go faster than they can be copied", hint="free disk space, and make the backup again")
