"""A pickled version's pool: its processes are asked from the event loop, without a thread while all goes well."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from models import SIGNATURE, Choosy, Doomed, Sum, Where, Wide, runtime, saved

from adapters.clock import SystemClock
from adapters.inflight import MappedInFlight
from adapters.memory import MemoryBank
from adapters.runtimes.chained import ChainedInstance
from adapters.suspicions_file import SuspicionsFile
from gateway.core.models import Batching
from gateway.core.records import Outcome
from gateway.core.tensors import Datatype, Signature, Tensor, TensorSpec
from gateway.ports.inflight import Place
from gateway.serving.batch import Ran
from gateway.serving.poison import Poison
from gateway.serving.pools import Pool
from gateway.serving.turn import Turn
from gateway.serving.warming import Cost, Warm
from gateway.settings import ServingSettings

WIDE = Signature((TensorSpec("input", Datatype.FP64, (-1, 2)),), (TensorSpec("prediction", Datatype.FP64, (-1, 20_000)),))


@dataclass
class Bench:
    """A pool on the running loop, over one process or more."""

    pool: Pool
    place: int
    in_flight: MappedInFlight
    before: frozenset[threading.Thread]

    def submit(self, *values: float, **more: object) -> asyncio.Future[Ran]:
        """Submit rows with these first numbers."""
        inputs = (Tensor("input", Datatype.FP64, np.array([[value, 0.0] for value in values])),)
        deadline_s = SystemClock().monotonic_s() + 60.0
        return self.pool.submit(str(uuid4()), self.place, inputs, len(values), **{"deadline_s": deadline_s, **more})

    def threads(self) -> int:
        """Return how many threads the pool has; those of others may not have ended yet."""
        return sum(thread.name.startswith("pool ") for thread in set(threading.enumerate()) - self.before)

    async def runs(self, *values: float) -> list[Ran]:
        """Return how requests of one row each ended that came in one turn."""
        return list(await asyncio.gather(*[self.submit(value) for value in values]))


@pytest.fixture
def on_loop(tmp_path: Path) -> Callable[..., None]:
    """Return what runs a test's body over a pool of a pickled model."""

    def run(
        body: Callable[[Bench], Awaitable[None]],
        model: object,
        *,
        signature: Signature = SIGNATURE,
        pickled: dict[str, object] | None = None,
        delay_ms: float = 0.0,
        is_chain: bool = False,
        **limits: object,
    ) -> None:
        async def main() -> None:
            version = saved(tmp_path / "m.pkl", model, signature=signature, **(pickled or {}))
            if delay_ms:
                object.__setattr__(version, "batching", Batching(delay_ms=delay_ms))
            instance = runtime(tmp_path / "scratch", **limits).load(tmp_path / "m.pkl", version)
            in_flight, metrics, clock, settings = MappedInFlight(tmp_path / "w0"), MemoryBank(), SystemClock(), ServingSettings()
            turn = Turn(asyncio.get_running_loop(), settings.inline_turn_us_max)
            poison = Poison(SuspicionsFile(tmp_path / "poison"), keep_s=0.0, metrics=metrics, clock=clock)
            served = ChainedInstance([version], [instance]) if is_chain else instance
            warm, before = Warm(version, served, Cost(100.0, 1.0)), frozenset(threading.enumerate())
            pool = Pool(warm, turn=turn, settings=settings, in_flight=in_flight, poison=poison, metrics=metrics, clock=clock)
            try:
                async with asyncio.timeout(60):
                    await body(Bench(pool, in_flight.bind(Place("r", "m", 1, "a", "1", "ab" * 32, "0")), in_flight, before))
            finally:
                instance.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    return run


def answers(rans: Sequence[Ran]) -> list[object]:
    """Return each run's output, or how it ended."""
    return [ran.outputs[0].data.tolist() if ran.outcome is Outcome.OK else ran.outcome for ran in rans]


def test_requests_of_one_turn_share_a_run_without_a_thread(on_loop):
    """What came together runs together, and each gets its own rows."""

    async def test(bench: Bench) -> None:
        rans = await bench.runs(*map(float, range(16)))
        assert bench.threads() == 0
        assert answers(rans) == [[float(at)] for at in range(16)]
        assert {(ran.batch_rows, ran.batch_position) for ran in rans} == {(16, at) for at in range(16)}

    on_loop(test, Sum())


def test_what_waits_runs_when_the_process_is_free(on_loop):
    """Requests that come while the only process is at work share the next run, a withdrawn one does not run, and all is noted."""

    class Caller:
        on_gone: Callable[[], bool] | None = None

    async def test(bench: Bench) -> None:
        first, caller = bench.submit(0.3), Caller()
        while bench.in_flight.oldest_s() == float("inf"):  # noqa: ASYNC110 - what is waited for is no event
            await asyncio.sleep(0)
        assert bench.threads() == 0
        later = [bench.submit(0.0) for _ in range(3)]
        gone = bench.submit(0.0, caller=caller)
        assert caller.on_gone is not None
        assert caller.on_gone()
        assert gone.cancelled()
        assert (await first).batch_rows == 1
        assert [ran.batch_rows for ran in await asyncio.gather(*later)] == [3, 3, 3]
        assert bench.in_flight.oldest_s() == float("inf")

    on_loop(test, Where())


def test_version_with_a_delay_waits_for_more(on_loop):
    """The version's own delay collects requests of several turns."""

    async def test(bench: Bench) -> None:
        first = bench.submit(1.0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [ran.batch_rows for ran in await asyncio.gather(first, bench.submit(2.0))] == [2, 2]

    on_loop(test, Sum(), delay_ms=1_000.0)


def test_process_is_watched_until_it_ends(on_loop):
    """Prediction after prediction takes no further descriptor, and those of a process that was killed are given back."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - their number alone

    async def test(bench: Bench) -> None:
        [[first]] = answers(await bench.runs(0.0))
        before = descriptors()
        for _ in range(5):
            assert answers(await bench.runs(0.0)) == [[first]]
        assert descriptors() == before
        os.kill(int(first), signal.SIGKILL)
        while (found := answers(await bench.runs(0.0))) in ([[first]], [Outcome.FAILED]) or descriptors() != before:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
        assert found[0] != [first]

    on_loop(test, Where())


def test_processes_run_side_by_side(on_loop):
    """With several processes a second full batch runs beside the first, in a process that is started for it."""

    async def test(bench: Bench) -> None:
        rows = [1.0] * 64
        found = await asyncio.gather(bench.submit(*rows), bench.submit(*rows))
        assert len({ran.outputs[0].data[0] for ran in found}) == 2

    on_loop(test, Where(), pickled={"instances_min": 1, "instances_max": 2})


def test_large_answers_pass(on_loop):
    """An answer larger than what is read at once comes whole."""

    async def test(bench: Bench) -> None:
        (ran,) = await bench.runs(7.0)
        assert ran.outputs[0].data.shape == (1, 20_000)
        large = await bench.submit(*[float(at) for at in range(50)])
        assert large.outputs[0].data[:, 0].tolist() == [float(at) for at in range(50)]

    on_loop(test, Wide(), signature=WIDE)


def test_large_rows_pass(on_loop):
    """A request of more than what is sent at once is answered like any other."""

    async def test(bench: Bench) -> None:
        ran = await bench.submit(*[float(at) for at in range(10_000)])
        assert ran.outputs[0].data.tolist() == [float(at) for at in range(10_000)]

    on_loop(test, Sum())


def test_row_that_fails_harms_no_neighbour(on_loop):
    """A model that raises is asked again row by row, so that only the bad row's caller is told."""

    async def test(bench: Bench) -> None:
        rans = await bench.runs(0.0, 4.0, 0.0)
        assert [ran.outcome for ran in rans] == [Outcome.OK, Outcome.FAILED, Outcome.OK]
        assert "no such row" in str(rans[1].fault)
        assert [ran.outcome for ran in await bench.runs(0.0)] == [Outcome.OK]

    on_loop(test, Choosy())


@pytest.mark.parametrize(("harm", "told"), [(1.0, "exited with status 3"), (2.0, "killed by SIGSEGV")])
def test_process_that_dies_is_told_and_replaced(on_loop, harm, told):
    """The caller is told how the process ended, after the time it ran, and the next one is answered by another."""

    async def test(bench: Bench) -> None:
        [before] = await bench.runs(0.0)
        [died] = await bench.runs(harm)
        assert (died.outcome, told in str(died.fault)) == (Outcome.FAILED, True), died.fault
        [after] = await bench.runs(0.0)
        assert answers([after]) != answers([before])
        assert bench.in_flight.oldest_s() == float("inf")

    on_loop(test, Doomed())


def test_process_that_hangs_is_killed_in_time(on_loop):
    """A process that does not answer is killed after its bound; the run's duration says so, and the next is answered."""

    async def test(bench: Bench) -> None:
        [hung] = await bench.runs(60.0)
        assert "did not answer within 0.5 s" in str(hung.fault)
        assert hung.duration_us >= 500_000
        [after] = await bench.runs(0.0)
        assert after.outcome is Outcome.OK

    on_loop(test, Where(), predict_timeout_s=0.5)


def test_rows_that_hang_cost_their_neighbours_no_answer(on_loop):
    """Of a batch in which rows hang, the others are answered before a deadline as short as what one process may take."""

    async def test(bench: Bench) -> None:
        deadline_s = SystemClock().monotonic_s() + 10.0
        rans = await asyncio.gather(*[bench.submit(value, deadline_s=deadline_s) for value in (600.0, 600.0, 0.0, 0.0, 0.0)])
        assert [ran.outcome for ran in rans[:2]] == [Outcome.FAILED] * 2
        assert [ran.outcome for ran in rans[2:]] == [Outcome.OK] * 3, [str(ran.fault) for ran in rans]

    on_loop(test, Where(), predict_timeout_s=10.0)


def test_row_that_hangs_in_a_chain_costs_its_neighbours_no_answer(on_loop):
    """A run of a chain has half of its callers' time, too, and each row after that its part of the rest."""

    async def test(bench: Bench) -> None:
        first = bench.submit(0.3)
        while bench.in_flight.oldest_s() == float("inf"):  # noqa: ASYNC110 - what is waited for is no event
            await asyncio.sleep(0)
        deadline_s = SystemClock().monotonic_s() + 10.0
        joined = [bench.submit(value, deadline_s=deadline_s) for value in (600.0, 0.0, 0.0)]
        rans = await asyncio.gather(first, *joined)
        assert [ran.outcome for ran in rans] == [Outcome.OK, Outcome.FAILED, Outcome.OK, Outcome.OK], [ran.fault for ran in rans]

    on_loop(test, Where(), is_chain=True, predict_timeout_s=60.0)


def test_deaths_of_a_batch_are_one_death(on_loop):
    """Neighbours of a row that kills its process are answered although processes died before; pauses are between batches."""

    async def test(bench: Bench) -> None:
        for _ in range(3):
            rans = await bench.runs(1.0, 1.0, 0.0, 0.0)
            assert [ran.outcome for ran in rans] == [Outcome.FAILED, Outcome.FAILED, Outcome.OK, Outcome.OK]
            assert all("exited with status 3" in str(ran.fault) for ran in rans[:2])
        assert bench.pool._instance._deaths.count == 3

    on_loop(test, Doomed(), predict_timeout_s=60.0)
