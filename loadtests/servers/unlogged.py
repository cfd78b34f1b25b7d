"""The gateway's own serving worker with a log that keeps nothing: what log and monitor cost is the difference to the real one.

Reads the registry and artifacts of a running gateway's data directory, named as the first argument, and writes nothing there but
its status as a follower of the route table.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from adapters.clock import SystemClock
from adapters.heap import Heap
from adapters.inflight import MappedInFlight
from adapters.load_lock import FileLoadLock
from adapters.metrics_file import MetricsDirectory, MetricsFile
from adapters.runtimes.onnx import OnnxRuntime
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.registry import SqliteRegistry
from adapters.suspicions_file import SuspicionsFile
from gateway.core.models import Runtime
from gateway.core.records import Offset, Record
from gateway.serving.run import run_worker
from gateway.settings import settings_from_body


class NoLog:
    """A `PredictionLogWriter` that writes nothing."""

    resumed_s = 0.0

    def append(self, records: Sequence[Record]) -> Offset:
        """Drop the records."""
        del records
        return Offset(0)

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def main(data_dir: Path) -> None:
    """Serve until the process is terminated."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2_048)
        print(listener.getsockname()[1], flush=True)
        clock = SystemClock()
        scratch = data_dir / "unlogged"
        scratch.mkdir(exist_ok=True)
        run_worker(
            worker="unlogged",
            workers=("unlogged",),
            listener=listener,
            settings=settings_from_body(json.loads((data_dir / "run" / "settings.json").read_text())),
            registry=SqliteRegistry(data_dir / "registry.db", clock=clock),
            artifacts=DirectoryArtifacts(data_dir / "artifacts"),
            runtimes={Runtime.ONNX: OnnxRuntime()},
            log=NoLog(),
            metrics=MetricsFile(scratch / "metrics.bin"),
            snapshots=MetricsDirectory(scratch),
            in_flight=MappedInFlight(scratch / "in-flight"),
            suspicions=SuspicionsFile(scratch / "poison.json"),
            memory=Heap(),
            load_lock=FileLoadLock(scratch / "loading"),
            clock=clock,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
