"""A version's pool over an instance that runs until it is let go: deadlines, copies, and what is in flight meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from adapters.clock import SystemClock
from adapters.inflight import MappedInFlight
from adapters.memory import MemoryBank
from adapters.suspicions_file import SuspicionsFile
from gateway.core.errors import DeadlineExceeded, Overloaded, PoisonousInput, PoolSaturated
from gateway.core.models import Batching, Digest, Runtime, Version
from gateway.core.records import Outcome
from gateway.core.tensors import Array, Datatype, Signature, Tensor, TensorSpec
from gateway.ports.inflight import Place
from gateway.serving.batch import Job, Ran, execute
from gateway.serving.checking import Checker
from gateway.serving.poison import Poison
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
OPEN = replace(VERSION, signature=Signature(*[(TensorSpec(name, Datatype.FP32, (-1, -1)),) for name in ("x", "y")]))
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
        self.ran.append(inputs["x"][:, 0].tolist())
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
    metrics: MemoryBank
    poison: Poison
    ids: dict[float, str] = field(default_factory=dict)

    def submit(self, value: float, *, within_s: float = 5.0, width: int = 1, **more: Any) -> asyncio.Future[Ran]:
        """Submit one row."""
        self.ids[value] = str(uuid4())
        inputs = (Tensor("x", Datatype.FP32, np.full((1, width), value, np.float32)),)
        deadline_s = SystemClock().monotonic_s() + within_s
        return self.pool.submit(self.ids[value], self.place, inputs, 1, deadline_s=deadline_s, **more)

    def fired(self, reason: str) -> float:
        """Return how many batches ran for a reason."""
        return sum(
            sample.value
            for sample in self.metrics.samples()
            if sample.name == "gateway_batches_total" and dict(sample.labels)["reason"] == reason
        )

    async def until_ran(self, runs: int) -> None:
        """Wait until so many runs began."""
        async with asyncio.timeout(5):
            while len(self.instance.ran) < runs:  # noqa: ASYNC110 - the runs are in a thread
                await asyncio.sleep(0.001)


@pytest.fixture
def on_loop(tmp_path: Path) -> Callable[..., None]:
    """Return what runs a test's body over a pool, in a thread unless the version is cheap."""

    def run(
        body: Callable[[Bench], Awaitable[None]], *, cost_us: float = 2_000.0, version: Version = VERSION, **serving: Any
    ) -> None:
        async def main() -> None:
            in_flight, instance, metrics = MappedInFlight(tmp_path / "w0"), Held(), MemoryBank()
            loop, settings = asyncio.get_running_loop(), ServingSettings(**serving)
            turn = Turn(loop, settings.inline_turn_us_max)
            warm = Warm(version, instance, Cost(cost_us, 0.0))
            clock = SystemClock()
            poison = Poison(SuspicionsFile(tmp_path / "poison"), keep_s=60.0, metrics=metrics, clock=clock)
            pool = Pool(warm, turn=turn, settings=settings, in_flight=in_flight, poison=poison, metrics=metrics, clock=clock)
            try:
                await body(Bench(pool, instance, in_flight.bind(PLACE), metrics, poison))
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
        with pytest.raises(DeadlineExceeded):
            await bench.submit(3.0, within_s=-0.001)  # and nothing waits beside it
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


@pytest.mark.parametrize("value", [1e30, np.nan, np.inf])
def test_answers_at_the_ends_of_their_type_leave_no_warning(recwarn, value):
    """Whether an answer is finite is found out without a word on stderr, where a line that is no JSON would stand."""
    tensor = Tensor("x", Datatype.FP32, np.full((64, 1), value, np.float32))

    async def ran() -> Ran:
        job = Job("p", 0, (tensor,), 64, (), 1.0, 0.0, asyncio.get_running_loop().create_future())
        return execute(lambda inputs: {"y": inputs["x"]}, Checker(VERSION), [job], SystemClock())[0]

    assert asyncio.run(ran()).outcome is Outcome.OK
    assert [one for one in recwarn if issubclass(one.category, RuntimeWarning)] == []


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


@dataclass
class Leaving:
    """A caller that may leave."""

    on_gone: Callable[[], bool] | None = None


def test_batch_is_what_came_while_a_run_went_on(on_loop):
    """A free instance takes what there is; what arrives meanwhile makes the next run, and both say so."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0)
        await bench.until_ran(1)
        rest = [bench.submit(2.0), bench.submit(3.0)]
        bench.instance.may_run.set()
        await asyncio.gather(first, *rest)
        assert bench.instance.ran == [[1.0], [2.0, 3.0]]
        assert bench.fired("free") == 2

    on_loop(body)


def test_batch_waits_for_the_callers_just_answered(on_loop):
    """Who comes back with the next request joins those who waited meanwhile, so that halves do not alternate for ever."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0, within_s=60.0)
        await bench.until_ran(1)
        waiting = [bench.submit(value, within_s=60.0) for value in (2.0, 3.0)]
        bench.instance.may_run.set()
        await first
        await asyncio.gather(bench.submit(4.0, within_s=60.0), *waiting)
        assert bench.instance.ran == [[1.0], [2.0, 3.0, 4.0]]

    on_loop(body, cost_us=5e6)


def test_batch_waits_for_no_copies(on_loop):
    """What waits for shadows is not among the rows that come back, and nobody waits for it."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0, within_s=600.0)
        await bench.until_ran(1)
        copies = [bench.submit(value, within_s=600.0, is_copy=True) for value in (5.0, 6.0)]
        waiting = bench.submit(2.0, within_s=600.0)
        bench.instance.may_run.set()
        await first
        async with asyncio.timeout(30):  # half of what joining would save
            await asyncio.gather(bench.submit(3.0, within_s=600.0), waiting)
        assert bench.instance.ran[:2] == [[1.0], [2.0, 3.0]]
        for copy in copies:
            copy.cancel()

    on_loop(body, cost_us=6e7)


def test_batch_is_full_at_the_versions_own_bound(on_loop):
    """A version may join fewer rows than the setting allows; such a run fired because it was full."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0)
        await bench.until_ran(1)
        rest = [bench.submit(value) for value in (2.0, 3.0, 4.0)]
        bench.instance.may_run.set()
        await asyncio.gather(first, *rest)
        assert bench.instance.ran == [[1.0], [2.0, 3.0], [4.0]]
        assert (bench.fired("full"), bench.fired("free")) == (1, 2)

    on_loop(body, version=replace(VERSION, batching=Batching(rows_max=2)))


@pytest.mark.parametrize(("rows", "reason"), [(2, "delay"), (3, "full")])
def test_batch_waits_for_its_delay_or_until_it_is_full(on_loop, rows, reason):
    """With a delay a free instance waits for more rows, no longer than the delay and not beyond a full batch."""

    async def body(bench: Bench) -> None:
        bench.instance.may_run.set()
        began_s = SystemClock().monotonic_s()
        waiting = [bench.submit(float(value)) for value in range(rows)]
        await asyncio.gather(*waiting)
        assert bench.instance.ran == [[float(value) for value in range(rows)]]
        assert bench.fired(reason) == 1
        assert (SystemClock().monotonic_s() - began_s >= 0.3) is (reason == "delay")

    on_loop(body, version=replace(VERSION, batching=Batching(rows_max=3, delay_ms=300)))


def test_rows_of_equal_width_are_joined_past_others(on_loop):
    """Rows that differ in a trailing dimension run apart, each with its like, whatever their order."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0)
        await bench.until_ran(1)
        rest = [bench.submit(float(value), width=1 + value % 2) for value in range(2, 8)]
        bench.instance.may_run.set()
        await asyncio.gather(first, *rest)
        assert bench.instance.ran == [[1.0], [2.0, 4.0, 6.0], [3.0, 5.0, 7.0]]

    on_loop(body, version=OPEN)


def test_job_whose_caller_left_does_not_run(on_loop):
    """A job that waits is withdrawn when its caller leaves; its neighbours run."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0)
        await bench.until_ran(1)
        caller = Leaving()
        left, stays = bench.submit(2.0, caller=caller), bench.submit(3.0)
        assert caller.on_gone is not None
        assert caller.on_gone()
        assert left.cancelled()
        bench.instance.may_run.set()
        await asyncio.gather(first, stays)
        assert bench.instance.ran == [[1.0], [3.0]]

    on_loop(body)


def test_job_that_runs_is_not_withdrawn(on_loop):
    """What began leaves its record, although nobody waits for the answer."""

    async def body(bench: Bench) -> None:
        caller = Leaving()
        first = bench.submit(1.0, caller=caller)
        await bench.until_ran(1)
        assert caller.on_gone is not None
        assert not caller.on_gone()
        bench.instance.may_run.set()
        assert (await first).outcome is Outcome.OK

    on_loop(body)


def test_job_that_would_wait_too_long_is_refused_at_once(on_loop):
    """Forty runs of 50 ms are 2 s: too long for who has 4 s, not for who has 6; and the refusal says when to come back."""

    async def body(bench: Bench) -> None:
        waiting = [bench.submit(float(value)) for value in range(40)]
        with pytest.raises(Overloaded) as refused:
            bench.submit(100.0, within_s=4.0)
        assert refused.value.retry_after_s == pytest.approx(2.0)
        waiting.append(bench.submit(101.0, within_s=6.0))
        bench.instance.may_run.set()
        await asyncio.gather(*waiting)
        assert 100.0 not in [value for run in bench.instance.ran for value in run]

    on_loop(body, cost_us=50_000.0, version=replace(VERSION, batching=Batching(rows_max=1)))


def test_wait_is_expected_by_what_runs_take_now(on_loop):
    """A version that has become slower than when it warmed refuses sooner."""

    async def body(bench: Bench) -> None:
        first = bench.submit(1.0)
        await bench.until_ran(1)
        asyncio.get_running_loop().call_later(0.2, bench.instance.may_run.set)
        await first
        bench.instance.may_run.clear()
        bench.submit(2.0)
        with pytest.raises(Overloaded):
            bench.submit(3.0, within_s=0.02)

    on_loop(body)


def test_job_with_priority_goes_first(on_loop):
    """Priority 1 goes before 2, and both before what has none, whenever they came."""

    async def body(bench: Bench) -> None:
        waiting = [bench.submit(1.0)]
        await bench.until_ran(1)
        waiting += [
            bench.submit(2.0),
            bench.submit(3.0, priority=2),
            bench.submit(4.0, priority=1),
            bench.submit(5.0, priority=2),
        ]
        bench.instance.may_run.set()
        await asyncio.gather(*waiting)
        assert bench.instance.ran == [[1.0], [4.0], [3.0], [5.0], [2.0]]

    on_loop(body, version=replace(VERSION, batching=Batching(rows_max=1)))


def test_job_with_priority_waits_for_its_like_alone(on_loop):
    """What goes after a job does not count as waiting before it: it is taken where a job without priority is refused."""

    async def body(bench: Bench) -> None:
        waiting = [bench.submit(float(value)) for value in range(40)]
        with pytest.raises(Overloaded):
            bench.submit(100.0, within_s=1.0)
        waiting.append(bench.submit(101.0, within_s=1.0, priority=1))
        bench.instance.may_run.set()
        await asyncio.gather(*waiting)

    on_loop(body, cost_us=50_000.0, version=replace(VERSION, batching=Batching(rows_max=1)))


def test_queue_is_bounded_in_rows(on_loop):
    """One row more than may wait is refused, however little it would wait."""

    async def body(bench: Bench) -> None:
        waiting = [bench.submit(float(value)) for value in range(3)]
        with pytest.raises(PoolSaturated):
            bench.submit(100.0)
        bench.instance.may_run.set()
        await asyncio.gather(*waiting)

    on_loop(body, queue_rows_max=3)


def test_second_thread_joins_for_a_whole_batch_only(on_loop):
    """While one thread runs, another starts when what waits fills a batch, and not before."""

    async def body(bench: Bench) -> None:
        waiting = [bench.submit(1.0)]
        await bench.until_ran(1)
        waiting.append(bench.submit(2.0))
        assert not await _runs_within(bench, 2, 0.05)
        waiting.append(bench.submit(3.0))
        assert await _runs_within(bench, 2, 5.0)
        assert bench.instance.ran == [[1.0], [2.0, 3.0]]
        bench.instance.may_run.set()
        await asyncio.gather(*waiting)

    on_loop(body, threads_max=2, version=replace(VERSION, batching=Batching(rows_max=2)))


async def _runs_within(bench: Bench, runs: int, within_s: float) -> bool:
    """Return whether so many runs began in time."""
    try:
        async with asyncio.timeout(within_s):
            while len(bench.instance.ran) < runs:  # noqa: ASYNC110 - the runs are in threads
                await asyncio.sleep(0.001)
    except TimeoutError:
        return False
    return True


def test_input_that_a_process_died_of_is_refused_and_its_neighbours_run(on_loop, tmp_path):
    """After a death the version's inputs are noted; what is suspect runs by itself; what is convicted does not run."""

    async def body(bench: Bench) -> None:
        digest, bystander = bench.pool.version.digest, "00" * 16
        bench.poison.died([(digest, [])])
        first = bench.submit(1.0)
        await bench.until_ran(1)
        [(died_of, noted)] = MappedInFlight(tmp_path / "w0").runs_left()
        assert (died_of, len(noted)) == (digest, 1)
        bench.poison.died([(digest, [*noted, bystander])])  # which of both it was nobody knows
        others = [bench.submit(2.0), bench.submit(1.0), bench.submit(3.0)]
        bench.instance.may_run.set()
        assert {(await future).outcome for future in (first, *others)} == {Outcome.OK}
        assert [1.0] in bench.instance.ran[1:]
        assert bench.poison.watches[digest].suspects == {bytes.fromhex(bystander)}, "what ran by itself and lived is cleared"
        for _ in range(2):
            bench.poison.died([(digest, noted)])
        with pytest.raises(PoisonousInput, match="died of this input"):
            bench.submit(1.0)
        assert (await bench.submit(5.0)).outcome is Outcome.OK

    on_loop(body, inline_us_max=0.0, threads_max=1)
