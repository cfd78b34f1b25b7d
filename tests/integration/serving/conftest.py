"""A serving worker in a thread, over stores in memory, with real ONNX files and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import uvloop
from onnx import TensorProto, helper, numpy_helper

from adapters.clock import SystemClock
from adapters.heap import Heap
from adapters.inflight import MappedInFlight
from adapters.load_lock import FileLoadLock
from adapters.logs.memory import MemoryLog
from adapters.memory import MemoryMetrics
from adapters.runtimes.onnx import OnnxRuntime
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.memory import MemoryRegistry
from adapters.suspicions_file import SuspicionsFile
from gateway.core.changes import Change, PutChampion, PutRoute, PutVersion, Write
from gateway.core.models import Batching, Column, Digest, Runtime, Version
from gateway.core.privacy import Privacy
from gateway.core.records import Offset, PredictionRecord, Record
from gateway.core.routes import route_from_body, with_weights
from gateway.core.split import assign_slots
from gateway.core.tensors import Datatype, Signature, TensorSpec
from gateway.ports.log import PredictionLogWriter
from gateway.ports.traces import Traces
from gateway.serving.parts import Ports
from gateway.serving.run import serve
from gateway.settings import ServingSettings, Settings

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
DATATYPES = {
    TensorProto.FLOAT: Datatype.FP32,
    TensorProto.DOUBLE: Datatype.FP64,
    TensorProto.FLOAT16: Datatype.FP16,
    TensorProto.BFLOAT16: Datatype.BF16,
    TensorProto.INT8: Datatype.INT8,
    TensorProto.INT16: Datatype.INT16,
    TensorProto.INT32: Datatype.INT32,
    TensorProto.INT64: Datatype.INT64,
    TensorProto.UINT8: Datatype.UINT8,
    TensorProto.UINT16: Datatype.UINT16,
    TensorProto.UINT32: Datatype.UINT32,
    TensorProto.UINT64: Datatype.UINT64,
    TensorProto.BOOL: Datatype.BOOL,
    TensorProto.STRING: Datatype.BYTES,
}


@dataclass(frozen=True)
class Model:
    """An ONNX graph and the signature that validation would read from it."""

    content: bytes
    signature: Signature


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> Model:
    """Build a model; a shape's text stands for a variable dimension."""
    sides = [[helper.make_tensor_value_info(name, type, list(shape)) for name, type, shape in side] for side in (inputs, outputs)]
    made = helper.make_graph(
        list(nodes), "g", sides[0], sides[1], [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def specs(side: Sequence[tuple[str, int, Sequence[int | str]]]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, DATATYPES[type], tuple(-1 if isinstance(size, str) else size for size in shape))
            for name, type, shape in side
        )

    return Model(model.SerializeToString(), Signature(specs(inputs), specs(outputs)))


def linear(features: int = 4, *, scale: float = 1.0, bias: float = 0.0) -> Model:
    """`y = sum(x) · scale + bias`, [n, features] → [n, 1]."""
    weights = np.full((features, 1), scale, np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "b"], ["y"])]
    constants = {"w": weights, "b": np.array([bias], np.float32)}
    return graph(nodes, [("x", FLOAT, ["n", features])], [("y", FLOAT, ["n", 1])], constants)


def named(count: int = 20) -> Model:
    """`y = sum of all inputs`, `count` inputs of shape [n, 1] → [n, 1]."""
    names = [f"c{at}" for at in range(count)]
    nodes = [helper.make_node("Concat", names, ["x"], axis=1), helper.make_node("MatMul", ["x", "w"], ["y"])]
    inputs = [(name, FLOAT, ["n", 1]) for name in names]
    return graph(nodes, inputs, [("y", FLOAT, ["n", 1])], {"w": np.ones((count, 1), np.float32)})


def identity(type: int, shape: Sequence[int | str] = ("n", "m")) -> Model:
    """`y = x`."""
    return graph([helper.make_node("Identity", ["x"], ["y"])], [("x", type, shape)], [("y", type, shape)])


def doubled_bf16() -> Model:
    """`y = 2 x` in BF16, worked out in FP32, as the processor has no arithmetic in BF16."""
    bf16 = TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=FLOAT),
        helper.make_node("Add", ["wide", "wide"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=bf16),
    ]
    return graph(nodes, [("x", bf16, ["n", "m"])], [("y", bf16, ["n", "m"])])


def identity_row() -> Model:
    """`y = x`, [n, 1] → [n, 1]."""
    return identity(FLOAT, ("n", 1))


def lookup(size: int = 4) -> Model:
    """`y = table[x]`, which the runtime refuses for an index out of range, and with it the whole batch."""
    table = np.arange(size, dtype=np.float32)
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    return graph(nodes, [("x", INT64, ["n", 1])], [("y", FLOAT, ["n", 1])], {"table": table})


def root() -> Model:
    """`y = sqrt(x)`, NaN for a negative row."""
    return graph([helper.make_node("Sqrt", ["x"], ["y"])], [("x", FLOAT, ["n", 1])], [("y", FLOAT, ["n", 1])])


def loop() -> Model:
    """`y = x` after max(x) · 1,000 turns of a loop: as slow as the caller likes."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["going"]), helper.make_node("Sin", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, [100]),
        ],
        [helper.make_tensor_value_info("going", TensorProto.BOOL, []), helper.make_tensor_value_info("v2", FLOAT, [100])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "thousand"], ["turns_f"]),
        helper.make_node("Cast", ["turns_f"], ["turns"], to=INT64),
        helper.make_node("Loop", ["turns", "yes", "start"], ["end"], body=body),
        helper.make_node("ReduceSum", ["end"], ["s"], keepdims=0),
        helper.make_node("Mul", ["s", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    constants = {
        "thousand": np.array(1000.0, np.float32),
        "yes": np.array(True),
        "start": np.ones(100, np.float32),
        "zero": np.array(0.0, np.float32),
    }
    return graph(nodes, [("x", FLOAT, ["n", 1])], [("y", FLOAT, ["n", 1])], constants)


@dataclass
class Models:
    """The builders above, for tests."""

    graph: Callable[..., Model] = graph
    linear: Callable[..., Model] = linear
    named: Callable[..., Model] = named
    identity: Callable[..., Model] = identity
    doubled_bf16: Callable[..., Model] = doubled_bf16
    identity_row: Callable[..., Model] = identity_row
    lookup: Callable[..., Model] = lookup
    root: Callable[..., Model] = root
    loop: Callable[..., Model] = loop


class Runs(MappedInFlight):
    """The in-flight file, which also tells whether anything runs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._running = 0

    def enter(self, place: int, prediction_ids: Sequence[bytes], fingerprints: Sequence[bytes] = ()) -> int:
        """Count and enter."""
        self._running += 1
        return super().enter(place, prediction_ids, fingerprints)

    def leave(self, run: int) -> None:
        """Leave and count."""
        super().leave(run)
        self._running -= 1

    def is_empty(self) -> bool:
        """Return whether no run is under way."""
        return self._running == 0


@dataclass
class Worker:
    """One worker, its stores and a client."""

    directory: Path
    settings: Settings = field(default_factory=Settings)
    log: MemoryLog = field(default_factory=MemoryLog)
    writer: PredictionLogWriter | None = None
    registry: MemoryRegistry = field(default_factory=lambda: MemoryRegistry(clock=SystemClock()))
    snapshots: MemoryMetrics = field(default_factory=MemoryMetrics)
    privacy: Privacy | None = None
    traces: Traces | None = None
    url: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        self.metrics = self.snapshots.bank("w0")
        self.artifacts = DirectoryArtifacts(self.directory / "artifacts")
        self.client = httpx.Client(timeout=30)
        self.in_flight = Runs(self.directory / "in-flight")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()

    def start(self) -> Worker:
        """Start and wait until connections are accepted."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client.base_url = httpx.URL(self.url)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def stop(self, within_s: float = 30) -> None:
        """Drain and wait for the end."""
        self.client.close()
        self.begin_stop()
        self._thread.join(within_s)
        assert not self._thread.is_alive()
        deadline_s = time.monotonic() + within_s
        while not self.in_flight.is_empty() and time.monotonic() < deadline_s:  # a run nobody waits for any more
            time.sleep(0.01)

    def begin_stop(self) -> None:
        """Do what SIGTERM does."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop is closed: it ended meanwhile
                self._loop.call_soon_threadsafe(self._stop.set)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the loop, so that it meets together what is sent meanwhile."""
        is_over = threading.Event()
        self._loop.call_soon_threadsafe(is_over.wait, 10.0)
        try:
            yield
        finally:
            is_over.set()

    def _run(self) -> None:
        async def run() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            ports = Ports(
                registry=self.registry,
                artifacts=self.artifacts,
                runtimes={Runtime.ONNX: OnnxRuntime()},
                log=self.writer or self.log.writer("w0"),
                metrics=self.metrics,
                snapshots=self.snapshots,
                in_flight=self.in_flight,
                suspicions=SuspicionsFile(self.directory / "poison.json"),
                memory=Heap(),
                load_lock=FileLoadLock(self.directory / "loading"),
                clock=SystemClock(),
                traces=self.traces,
            )
            self._started.set()
            await serve(
                "w0",
                self._listener,
                workers=("w0",),
                settings=self.settings,
                ports=ports,
                stop=self._stop,
                privacy=self.privacy,
            )

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())

    def commit(self, *writes: Write) -> None:
        """Commit without comparing revisions."""
        self.registry.commit(Change("test", "test", "test", "", writes))

    def register(
        self,
        name: str,
        version: str,
        model: Model,
        *,
        columns: Sequence[str] = (),
        cost_us: float = 0.0,
        champion: bool = False,
        providers: tuple[str, ...] = (),
        rows_max: int = 0,
    ) -> Version:
        """Register a version as the control plane would."""
        staged = Path(self.artifacts.staging())
        staged.write_bytes(model.content)
        digest = Digest(hashlib.sha256(model.content).hexdigest())
        self.artifacts.put(staged, digest)
        made = Version(
            model=name,
            version=version,
            digest=digest,
            size_bytes=len(model.content),
            runtime=Runtime.ONNX,
            runtime_version="0",
            signature=model.signature,
            columns=tuple(Column(column) for column in columns),
            cost_us_per_row=cost_us,
            providers=providers,
            batching=Batching(rows_max=rows_max),
        )
        self.commit(PutVersion(made), *([PutChampion(name, version)] if champion else []))
        return made

    def route(self, name: str, body: dict[str, object]) -> int:
        """Put a route, and return the table's revision."""
        route = route_from_body(name, body)
        before = self.registry.table().routes.get(name)
        if before is None:
            owners = assign_slots([(variant.name, variant.weight) for variant in route.variants])
            made = replace(route, owners=owners, salt="salt", last_good=route.variants)
        else:
            made = with_weights(replace(route, owners=before.owners, salt=before.salt, last_good=route.variants), route.variants)
        self.commit(PutRoute(made))
        return self.registry.table().revision

    def until_served(self, until: Callable[..., object]) -> None:
        """Wait until the worker answers with the newest table and everything it needs is warm."""
        table = self.registry.table()

        def is_served() -> bool:
            reports = self.registry.workers()
            return bool(reports) and reports[0].revision >= table.revision and self.is_ready() and all(map(is_warm, needed))

        def is_warm(path: str) -> bool:
            return self.client.get(path).status_code == 200

        with_choice = [route for route in table.routes.values() if len(route.needs()) > 1]  # of others only what answers is kept
        needed = [f"/v2/models/{route.name}/versions/{version}/ready" for route in with_choice for version in route.needs()]

        until(is_served)

    def is_ready(self) -> bool:
        """Return whether the worker is ready."""
        return self.client.get("/v2/health/ready").status_code == 200

    def records(self) -> list[Record]:
        """Return everything logged."""
        page = self.log.read("w0", Offset(0), 1_000_000) if "w0" in self.log.streams() else None
        return [record for _, record in page.records] if page else []

    def predictions(self) -> list[PredictionRecord]:
        """Return every prediction logged."""
        return [record for record in self.records() if isinstance(record, PredictionRecord)]

    def infer(
        self,
        name: str,
        data: object,
        *,
        shape: Sequence[int] | None = None,
        datatype: str = "FP32",
        version: str = "",
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> httpx.Response:
        """Send one tensor `x`."""
        tensor = {"name": "x", "shape": list(np.shape(data) if shape is None else shape), "datatype": datatype, "data": data}
        path = f"/v2/models/{name}" + (f"/versions/{version}" if version else "") + "/infer"
        return self.client.post(path, json={"inputs": [tensor], **more}, headers=headers)

    def raw(self, *parts: bytes, within_s: float = 10.0, is_half_closed: bool = False) -> bytes:
        """Send bytes on a connection of their own and return the first whole answer, or all until the other side closes."""
        with socket.create_connection(("127.0.0.1", self.port), within_s) as connection:
            for part in parts:
                connection.sendall(part)
            if is_half_closed:
                connection.shutdown(socket.SHUT_WR)
            return received(connection, within_s)

    def warm(self) -> list[tuple[str, str]]:
        """Return every (model, version) whose memory is counted."""
        found = [(dict(each.labels), each.value) for each in self.metrics.samples() if each.name == "gateway_model_memory_bytes"]
        return [(labels["model"], labels["version"]) for labels, value in found if value]

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's cells that have these labels."""
        return sum(
            sample.value
            for sample in self.metrics.samples()
            if sample.name == name and labels.items() <= dict(sample.labels).items()
        )


def received(connection: socket.socket, within_s: float = 10.0) -> bytes:
    """Return one whole answer, or all that comes until the other side closes."""
    connection.settimeout(within_s)
    content = b""
    while True:
        head, separator, body = content.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if separator and lengths and len(body) >= int(lengths[0]):
            return content
        if not (more := connection.recv(65536)):
            return content
        content += more


@pytest.fixture(scope="session")
def receive() -> Callable[..., bytes]:
    """Return the reader of one answer from a socket."""
    return received


@pytest.fixture(scope="session")
def models() -> Models:
    """Return the builders of models."""
    return Models()


@pytest.fixture(scope="module")
def start_worker() -> Iterator[Callable[[Path], Worker]]:
    """Start workers with default settings that a module shares."""
    started: list[Worker] = []

    def start(directory: Path) -> Worker:
        started.append(Worker(directory).start())
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Make workers that are stopped after the test; settings of serving are given by name."""
    made: list[Worker] = []

    def make(
        *,
        log: MemoryLog | None = None,
        writer: PredictionLogWriter | None = None,
        settings: Settings | None = None,
        privacy: Privacy | None = None,
        **serving: object,
    ) -> Worker:
        base = settings or Settings()
        chosen = replace(base, serving=replace(base.serving, **serving))  # type: ignore[arg-type]
        assert isinstance(chosen.serving, ServingSettings)
        made.append(Worker(tmp_path, chosen, log or MemoryLog(), writer, privacy=privacy))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()


@pytest.fixture
def worker(make_worker: Callable[..., Worker]) -> Worker:
    """Return a started worker with default settings and nothing registered."""
    return make_worker().start()


@pytest.fixture
def free_port() -> Iterator[int]:
    """Return a port that nobody else gets, kept as the supervisor keeps the one for gRPC."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]
