"""The data directory: where everything lies (see docs/operations.md)."""

from __future__ import annotations

from pathlib import Path

from gateway.core.access import ADMIN_KEY_NAME
from gateway.core.partitions import FIRST


class DataDirectory:
    """Where everything lies (see docs/operations.md)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = root / "registry.db"
        self.checkpoints = root / "checkpoints.db"
        self.artifacts = root / "artifacts"
        self.log = root / "log"
        self.archive = root / "archive"
        self.admin_token = root / ADMIN_KEY_NAME
        self.secret = root / "log.secret"
        self.lock = root / "lock"
        self.run = root / "run"
        self.metrics = self.run / "metrics"
        self.scratch = self.run / "pickled"  # of pickled models' processes, by who starts them
        self.settings = self.run / "settings.json"
        self.addresses = self.run / "addresses.json"

    def make(self) -> None:
        """Create the directories, for the owner alone."""
        for directory in (self.root, self.artifacts, self.log, self.archive, self.run, self.metrics):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def readings(self, process: str = FIRST) -> Path:
        """Return what a monitor process shows."""
        return self.run / ("readings.json" if process == FIRST else f"readings-{process}.json")

    def in_flight(self, worker: str) -> Path:
        """Return the mapped file of a worker."""
        return self.run / "in-flight" / worker
