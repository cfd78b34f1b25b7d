"""A control plane on a real socket: real registry, artifacts, validator, archive and log; a worker that warms what it is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from adapters.archives.duck import DuckArchive
from adapters.clock import SystemClock
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentWriter
from adapters.metrics_file import MetricsDirectory
from adapters.readings_file import ReadingsFile
from adapters.runtimes.chained import ChainedRuntime
from adapters.runtimes.onnx import OnnxRuntime
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from adapters.validation.process import ProcessValidator
from gateway.control.run import run_control
from gateway.core.changes import WorkerStatus
from gateway.core.errors import GatewayError
from gateway.core.models import Runtime
from gateway.core.notices import Channel
from gateway.core.records import Record
from gateway.ports.notices import Sender
from gateway.settings import ControlSettings, Settings


class Worker:
    """Follows the registry as a serving worker does: loads what is proposed, drops what is no longer needed, and reports.

    Attributes:
        cold: (model, version) that a route needed when its table arrived, and that was not warm.
    """

    def __init__(self, name: str, registry: SqliteRegistry, artifacts: DirectoryArtifacts) -> None:
        self._name = name
        self._registry = registry
        self._artifacts = artifacts
        onnx = OnnxRuntime()
        self._runtimes = {Runtime.ONNX: onnx, Runtime.CHAINED: ChainedRuntime({Runtime.ONNX: onnx}, artifacts)}
        self.cold: set[tuple[str, str]] = set()
        self._warm: set[tuple[str, str]] = set()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._is_over = threading.Event()

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Report no more."""
        self._is_over.set()
        self._thread.join(10)

    def _follow(self) -> None:
        seen, prepared, failure, reported = -1, 0, "", None
        while not self._is_over.is_set():
            seen = self._registry.follow(seen, 0.05)
            proposal, table = self._registry.proposal(), self._registry.table()
            wanted = set() if proposal is None else set(proposal.needs)
            needed = {(route.model, version) for route in table.routes.values() for version in route.needs()}
            self._warm &= needed | wanted | set(table.champions.items())
            self.cold |= needed - self._warm - set(table.champions.items())
            if proposal is not None and proposal.id > prepared:
                prepared, failure = proposal.id, self._warmed(proposal.needs)
            if reported != (table.revision, prepared):
                self._registry.report(WorkerStatus(self._name, table.revision, prepared, failure, SystemClock().now_s()))
                reported = (table.revision, prepared)

    def _warmed(self, needs: tuple[tuple[str, str], ...]) -> str:
        try:
            for model, name in needs:
                version = self._registry.version(model, name)
                self._runtimes[version.runtime].load(self._artifacts.path(version.digest), version)
                self._warm.add((model, name))
        except GatewayError as error:
            return str(error)
        return ""


@dataclass
class ControlPlane:
    """A running control plane and its parts."""

    url: str
    token: str
    data: Path
    registry: SqliteRegistry
    artifacts: DirectoryArtifacts
    workers: list[Worker]
    admin: httpx.Client = field(init=False)
    clients: list[httpx.Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.admin = self.client(self.token)

    def close(self) -> None:
        """Close every client's connections, so that the server's drain has nothing to wait for."""
        for client in self.clients:
            client.close()

    def client(self, token: str | None) -> httpx.Client:
        """Return a client with a token, or without."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.clients.append(httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False))
        return self.clients[-1]

    def client_with(self, *scopes: str) -> httpx.Client:
        """Return a client whose key has these scopes."""
        answer = self.admin.post("/api/v1/keys", json={"name": "+".join(scopes), "scopes": list(scopes)})
        return self.client(answer.json()["token"])

    def upload(self, model: str, artifact: Path | bytes, reference: Path | None = None, **metadata: object) -> httpx.Response:
        """Send a registration."""
        content = artifact if isinstance(artifact, bytes) else artifact.read_bytes()
        files = {"artifact": ("model.onnx", content), "metadata": (None, json.dumps(metadata))}
        if reference is not None:
            files["reference"] = (reference.name, reference.read_bytes())
        return self.admin.post(f"/api/v1/models/{model}/versions", files=files)

    def write_log(self, *records: Record) -> None:
        """Append records to the log of worker w0."""
        writer = SegmentWriter(
            self.data / "log",
            "w0",
            segment_bytes_max=2**20,
            segment_age_s=3600,
            bytes_max=2**30,
            free_bytes_min=0,
            clock=SystemClock(),
        )
        writer.append(records)
        writer.close()

    def put_route(self, name: str, *variants: tuple[str, str, int], if_match: int, **more: object) -> httpx.Response:
        """Put a route with variants given as (name, version, weight)."""
        places = [{"name": name, "version": version, "weight": weight} for name, version, weight in variants]
        body = {"variants": places, **more}
        return self.admin.put(f"/api/v1/routes/{name}", json=body, headers={"If-Match": f'"{if_match}"'})


def launch(
    data: Path,
    worker_count: int,
    running: int,
    settings: dict[str, object],
    channels: dict[str, tuple[Channel, Sender]] | None = None,
) -> tuple[ControlPlane, Callable[[], None]]:
    """Start a control plane in a thread; return it and what stops it."""
    clock = SystemClock()
    data.mkdir(exist_ok=True)
    registry, artifacts = SqliteRegistry(data / "registry.db", clock=clock), DirectoryArtifacts(data / "artifacts")
    control = ControlSettings(**{"prepare_timeout_s": 5.0, "validation_timeout_s": 20.0, **settings})
    names = [f"w{number}" for number in range(worker_count)]
    workers = [Worker(name, registry, artifacts) for name in names[:running]]
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    thread = threading.Thread(
        target=run_control,
        kwargs={
            "listener": listener,
            "settings": Settings(data_dir=data, control=control),
            "registry": SqliteRegistry(data / "registry.db", clock=clock),
            "artifacts": artifacts,
            "validator": ProcessValidator(timeout_s=control.validation_timeout_s, memory_bytes=control.validation_memory_bytes),
            "archive": DuckArchive(data / "archive", memory_bytes=2**28),
            "log": SegmentReader(data / "log"),
            "readings": ReadingsFile(data / "readings.json"),
            "snapshots": MetricsDirectory(data / "metrics"),
            "workers": names,
            "checkpoints": SqliteCheckpoints(data / "checkpoints.db"),
            "channels": channels or {},
            "clock": clock,
            "stop": stop,
        },
    )
    for worker in workers:
        worker.start()
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    httpx.get(f"{url}/health/live", timeout=10, trust_env=False)
    plane = ControlPlane(url, (data / "admin.token").read_text().strip(), data, registry, artifacts, workers)

    def end() -> None:
        plane.close()
        stop.set()
        thread.join(15)
        for worker in workers:
            worker.stop()
        registry.close()
        assert not thread.is_alive(), "the control plane did not stop"

    return plane, end


@pytest.fixture
def start_control(tmp_path: Path) -> Iterator[Callable[..., ControlPlane]]:
    """Start control planes that are stopped after the test."""
    ends: list[Callable[[], None]] = []

    def start(
        *, worker_count: int = 1, running: int | None = None, channels: dict | None = None, **settings: object
    ) -> ControlPlane:
        plane, end = launch(tmp_path / "data", worker_count, worker_count if running is None else running, settings, channels)
        ends.append(end)
        return plane

    yield start
    for end in ends:
        end()


@pytest.fixture
def control(start_control: Callable[..., ControlPlane]) -> ControlPlane:
    """Return a control plane with one worker."""
    return start_control()


@pytest.fixture(scope="module")
def shared_control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Return a control plane for the tests of one file that change nothing."""
    plane, end = launch(tmp_path_factory.mktemp("shared") / "data", 1, 1, {})
    yield plane
    end()
