"""A version's pool over an instance that runs until it is let go: deadlines, copies, and what is in flight meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest

from adapters.clock import SystemClock
from adapters.inflight import MappedInFlight
from adapters.memory import MemoryBank
from gateway.core.errors import DeadlineExceeded
from gateway.core.models import Digest, Runtime, Version
from gateway.core.records import Outcome
from gateway.core.tensors import Array, Datatype, Signature, Tensor, TensorSpec
from gateway.ports import Place
from gateway.serving.batch import Ran
from gateway.serving.pools import Pool
from gateway.serving.turn import Turn
from gateway.serving.warming import Cost, Warm
from gateway.settings import ServingSettings

SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, (-1, 1)),), (TensorSpec("y", Datatype.FP32, (-1, 1)),))
VERSION = Version(
    model="m",
    version="1",
    digest=Digest("ab" * 32),
    size_bytes=1,
    runtime=Runtime.ONNX,
    runtime_version="0",
    signature=SIGNATURE,
    columns=(),
    cost_us_per_row=1.0,
)
PLACE = Place("r", "m", 1, "a", "1", "ab" * 32, "0")


class Held:
    """An instance that answers with its input once `may_run` is set, and notes what it ran."""

    concurrency = 8
    runtime_version = "0"

    def __init__(self) -> None:
        self.may_run = threading.Event()
        self.ran: list[list[float]] = []

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Note, wait, answer."""
        self.ran.append(inputs["x"].ravel().tolist())
        assert self.may_run.wait(10)
        return {"y": inputs["x"]}

    def close(self) -> None:
        """Nothing to release."""


@dataclass
class Bench:
    """A pool on the running loop."""

    pool: Pool
    instance: Held
    place: int
    ids: dict[float, str] = field(default_factory=dict)

    def submit(self, value: float, *, within_s: float = 5.0, is_copy: bool = False) -> asyncio.Future[Ran]:
        """Submit one row."""
        self.ids[value] = str(uuid4())
        inputs = (Tensor("x", Datatype.FP32, np.array([[value]], np.float32)),)
        deadline_s = SystemClock().monotonic_s() + within_s
        return self.pool.submit(self.ids[value], self.place, inputs, 1, deadline_s=deadline_s, is_copy=is_copy)

    async def until_ran(self, runs: int) -> None:
        """Wait until so many runs began."""
        async with asyncio.timeout(5):
            while len(self.instance.ran) < runs:  # noqa: ASYNC110 - the runs are in a thread
                await asyncio.sleep(0.001)


@pytest.fixture
def on_loop(tmp_path: Path) -> Callable[..., None]:
    """Return what runs a test's body over a pool, in a thread unless the version is cheap."""

    def run(body: Callable[[Bench], Awaitable[None]], *, cost_us: float = 2_000.0) -> None:
        async def main() -> None:
            in_flight, instance = MappedInFlight(tmp_path / "w0"), Held()
            loop, settings = asyncio.get_running_loop(), ServingSettings()
            turn = Turn(loop, settings.inline_turn_us_max)
            warm = Warm(VERSION, instance, Cost(cost_us, 0.0))
            pool = Pool(warm, turn=turn, settings=settings, in_flight=in_flight, metrics=MemoryBank(), clock=SystemClock())
            try:
                await body(Bench(pool, instance, in_flight.bind(PLACE)))
            finally:
                instance.may_run.set()

        asyncio.run(main())

    return run


def test_job_past_its_deadline_does_not_run_on_the_loop(on_loop):
    """What expired while it waited for the turn is told so, and the version never sees it."""

    async def body(bench: Bench) -> None:
        bench.instance.may_run.set()
        late, fine = bench.submit(1.0, within_s=-0.001), bench.submit(2.0)
        with pytest.raises(DeadlineExceeded):
            await late
        assert (await fine).outcome is Outcome.OK
        assert bench.instance.ran == [[2.0]]

    on_loop(body, cost_us=1.0)


def test_job_past_its_deadline_does_not_run_in_the_thread(on_loop):
    """What expired behind a long run is dropped before the next."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0)
        await bench.until_ran(1)
        late, fine = bench.submit(2.0, within_s=0.01), bench.submit(3.0)
        with pytest.raises(DeadlineExceeded):
            await late
        bench.instance.may_run.set()
        assert [(await each).outcome for each in (first, fine)] == [Outcome.OK] * 2
        assert bench.instance.ran == [[1.0], [3.0]]

    on_loop(body)


def test_copies_run_after_every_live_job(on_loop):
    """A shadow's copy that came first still lets a live job go before it."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0)
        await bench.until_ran(1)
        copy, live = bench.submit(2.0, is_copy=True), bench.submit(3.0)
        bench.instance.may_run.set()
        await asyncio.gather(first, copy, live)
        assert bench.instance.ran == [[1.0], [3.0], [2.0]]

    on_loop(body)


def test_expired_job_is_not_the_successors_to_record(on_loop, tmp_path):
    """A running job whose deadline passes is answered and recorded here; only its batch's other members stay in flight."""

    async def body(bench: Bench) -> None:
        bench.submit(1.0)
        await bench.until_ran(1)
        expired, going_on = bench.submit(2.0, within_s=0.5), bench.submit(3.0)
        _release_one(bench.instance)
        await bench.until_ran(2)
        ran = await expired
        assert ran.outcome is Outcome.TIMED_OUT
        left = {left.prediction_id for left in MappedInFlight(tmp_path / "w0").left_behind()}
        assert bench.ids[2.0] not in left
        assert bench.ids[3.0] in left
        assert not going_on.done()

    on_loop(body)


def test_time_in_the_queue_is_no_fault_of_the_version(on_loop):
    """A run that began late and was not done in time is abandoned, not timed out, and its duration is that of the run."""

    async def body(bench: Bench) -> None:
        bench.submit(1.0)
        await bench.until_ran(1)
        late = bench.submit(2.0, within_s=1.0)
        asyncio.get_running_loop().call_later(0.6, _release_one, bench.instance)
        ran = await late
        assert ran.outcome is Outcome.ABANDONED
        assert 0 < ran.duration_us < 500_000

    on_loop(body)


def _release_one(instance: Held) -> None:
    """Let the run under way end, and hold the next."""
    held, instance.may_run = instance.may_run, threading.Event()
    held.set()


def test_ids_in_flight_are_the_predictions(on_loop, tmp_path):
    """What a worker runs is found by its successor under the predictions' own ids."""

    async def body(bench: Bench) -> None:
        bench.submit(1.0)
        await bench.until_ran(1)
        left = MappedInFlight(tmp_path / "w0").left_behind()
        assert [(UUID(each.prediction_id), each.place) for each in left] == [(UUID(bench.ids[1.0]), PLACE)]

    on_loop(body)
