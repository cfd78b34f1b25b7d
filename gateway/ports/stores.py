"""What is kept: artifacts, the registry, checkpoints, backups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Protocol

from gateway.core.access import Key
from gateway.core.audit import AuditEntry
from gateway.core.changes import Automation, Change, Committed, DecisionId, Proposal, Quarantine, WorkerStatus
from gateway.core.models import Digest, Version
from gateway.core.records import Cursor
from gateway.core.rollouts import Rollout
from gateway.core.routes import Revision, RouteTable


class ArtifactStore(Protocol):
    """Artifacts by digest."""

    def put(self, staged: PurePath, digest: Digest) -> None:
        """Move a complete file into the store; durable when it returns. Putting the same digest again changes nothing.

        Raises:
            ArtifactCorrupt: the file's bytes do not have that digest.
            StoreFailed: it could not be written.
        """

    def staging(self) -> PurePath:
        """Return the path of a new empty file on the store's own file system, for an upload."""

    def path(self, digest: Digest) -> PurePath:
        """Return where the artifact lies, after verifying its bytes.

        Raises:
            ArtifactCorrupt: it is missing or its bytes changed.
        """

    def backup(self, to: PurePath) -> None:
        """Copy every artifact to a new directory while more are put."""


class RegistryStore(Protocol):
    """Models, versions, routes, rollouts, keys and the audit log. Safe to share between threads and processes."""

    def models(self, after: str = "", limit: int = 100) -> Sequence[tuple[str, str]]:
        """Return (model, champion's version) in order of name, after a name."""

    def versions(self, model: str, after: str = "", limit: int = 100) -> Sequence[Version]:
        """Return a model's versions in the order they were registered, after a version's name; retired ones too."""

    def version(self, model: str, version: str) -> Version:
        """Return one version.

        Raises:
            UnknownVersion: there is none.
        """

    def followers(self, model: str, version: str, limit: int = 10) -> Sequence[tuple[str, str]]:
        """Return (model, version) of chains, not retired, in which a version is a member before their own artifact."""

    def table(self) -> RouteTable:
        """Return one consistent route table with every version its routes and champions need."""

    def rollout(self, id: str) -> Rollout:
        """Return one rollout.

        Raises:
            UnknownSubject: there is none.
        """

    def rollouts(self, route: str = "", *, open_only: bool = False, limit: int = 100) -> Sequence[Rollout]:
        """Return rollouts, the newest first; of one route, or of all."""

    def newest_rollouts(self) -> Mapping[str, Rollout]:
        """Return the newest rollout of each route that is there and had one, by its name."""

    def quarantines(self) -> Sequence[Quarantine]:
        """Return every quarantine ever set, with its strikes; those with `until_s` in the past are over."""

    def automation(self) -> Automation:
        """Return whether automatic changes are on."""

    def keys(self, after: str = "", limit: int = 100) -> Sequence[Key]:
        """Return keys in order of id, after an id."""

    def audit(self, after: int = 0, limit: int = 100, *, newest_first: bool = False) -> Sequence[AuditEntry]:
        """Return entries after the number `after`; newest first: the last `limit` before `after` (0 = from the end)."""

    def commit(
        self, change: Change, *, expected_revision: Revision | None = None, decision_id: DecisionId | None = None
    ) -> Committed:
        """Apply every write of `change` and append its audit entry, in one transaction; durable when it returns.

        A route's revision grows by one with each `PutRoute`; a dropped and re-created route goes on counting.
        A decision id commits at most once: a second call returns what the first did, with `is_repeat`, and writes nothing.

        Args:
            expected_revision: Of `change.route`; 0 means that the route must not exist; None compares nothing.

        Raises:
            RevisionConflict: the route moved on, or a digest in quarantine was convicted since.
            VersionExists: the version's name is taken.
            StoreFailed: nothing was written.
        """

    def propose(self, needs: Sequence[tuple[str, str]]) -> Proposal:
        """Tell every worker to load and warm (model, version) pairs that a coming change needs."""

    def proposal(self) -> Proposal | None:
        """Return the newest proposal."""

    def report(self, status: WorkerStatus) -> None:
        """Say how far a worker is; the last report of a worker stands."""

    def workers(self) -> Sequence[WorkerStatus]:
        """Return the last report of each worker."""

    def follow(self, after: int, timeout_s: float) -> int:
        """Wait until anything was committed, proposed or reported since the number `after`, and return the number now.

        Returns `after` itself when `timeout_s` passed first. A change made by another process is seen within 250 ms,
        usually within 1 ms.
        """

    def backup(self, to: PurePath) -> None:
        """Write a consistent copy of the registry to a new file while it is in use."""

    def close(self) -> None:
        """Release everything; a waiting `follow` returns."""


class CheckpointStore(Protocol):
    """A consumer's position and state, saved together or not at all."""

    def load(self, consumer: str) -> tuple[Cursor, bytes] | None:
        """Return what was last saved."""

    def save(self, consumer: str, cursor: Cursor, state: bytes) -> None:
        """Replace what was saved; atomic, durable when it returns."""

    def backup(self, to: PurePath) -> None:
        """Write a consistent copy to a new file while it is in use."""


class BackupStore(Protocol):
    """Where one backup lies."""

    def begin(self) -> PurePath:
        """Make it and return its directory.

        Raises:
            StoreFailed: there is something in it already.
        """

    def seal(self, taken_at_s: float) -> int:
        """Note what it holds, so that it counts as a backup; durable when it returns. Return its bytes."""

    def restore(self, to: PurePath) -> int:
        """Copy it to a directory that is new or empty, which shows all of it or nothing; return the files.

        Raises:
            StoreFailed: it is no whole backup, a byte of it changed, or the directory is not empty.
        """
