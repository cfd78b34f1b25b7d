"""The small parts of a serving worker: ids, the fault window, the turn, the table."""

from __future__ import annotations

import asyncio
import uuid

from hypothesis import given
from hypothesis import strategies as st

from adapters.clock import SystemClock
from adapters.memory import ManualClock
from gateway.serving.faults import FaultWindow
from gateway.serving.ids import PredictionIds
from gateway.serving.turn import Turn


def test_ids_are_version_7_unique_and_in_order_of_time():
    """Ids are canonical UUIDv7 that no two predictions share, and a later millisecond sorts later."""
    ids = PredictionIds(SystemClock())
    made = [ids.next() for _ in range(20_000)]
    assert len(set(made)) == len(made)
    for text in made[::500]:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)
    times = [text[:13] for text in made]
    assert times == sorted(times)
    clock = ManualClock(1_700_000_000.123)
    assert int(PredictionIds(clock).next().replace("-", "")[:12], 16) == 1_700_000_000_123


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 12), st.integers(1, 12))
def test_fault_window_rests_at_k_of_the_last_n(faults, window, faults_max):
    """A version rests exactly when k of its last n attempts were faults."""
    rests = []
    watched = FaultWindow(window=window, faults_max=faults_max, rest_s=10.0, rested=lambda: rests.append(1))
    recent: list[bool] = []
    for is_fault in faults:
        recent = [*recent, is_fault][-window:]
        watched.note(is_fault=is_fault, now_s=0.0)
        should_rest = is_fault and sum(recent) >= faults_max
        assert watched.admits(1.0) is not should_rest
        if should_rest:
            assert len(rests) == 1
            return
    assert not rests


def test_resting_version_is_probed_by_one_request_a_time():
    """While a version rests, one request after each rest may try it; a fault prolongs the rest, an answer ends it."""
    watched = FaultWindow(window=4, faults_max=2, rest_s=10.0, rested=lambda: None)
    for _ in range(2):
        watched.note(is_fault=True, now_s=0.0)
    assert [watched.admits(at) for at in (1.0, 9.9, 10.0, 10.1)] == [False, False, True, False]
    watched.note(is_fault=True, now_s=10.2)
    watched.note(is_fault=False, now_s=10.3)  # began before the rest; it says nothing
    assert [watched.admits(at) for at in (20.1, 20.2, 20.3)] == [False, True, False]
    watched.note(is_fault=False, now_s=20.4)
    assert watched.admits(20.5)


class Counted:
    """Runs of a fixed cost."""

    def __init__(self, jobs: int, cost_us: float, order: list[object]) -> None:
        self.jobs = jobs
        self.cost_us = cost_us
        self.order = order

    def run_inline(self, budget_us: float) -> tuple[float, bool]:
        """Run one."""
        assert budget_us > 0
        self.jobs -= 1
        self.order.append(self)
        return self.cost_us, self.jobs > 0


def test_turn_keeps_its_budget_and_starves_nobody():
    """What does not fit into a turn runs in the following ones, in rotation; other callbacks run in between."""
    order: list[object] = []

    async def run() -> None:
        turn = Turn(asyncio.get_running_loop(), 100.0)
        slow, other = Counted(3, 100.0, order), Counted(3, 100.0, order)
        turn.add(slow)
        turn.add(other)
        turn.add(slow)
        assert not turn.is_idle
        while not turn.is_idle:
            order.append("turn")
            await asyncio.sleep(0)
        runs = [each for each in order if each != "turn"]
        assert runs == [slow, other] * 3
        assert order.count("turn") >= 6

    asyncio.run(run())


def test_turn_runs_all_that_wait_when_they_are_cheap():
    """Several versions share a turn while its budget lasts."""
    order: list[object] = []

    async def run() -> None:
        turn = Turn(asyncio.get_running_loop(), 100.0)
        for _ in range(5):
            turn.add(Counted(1, 10.0, order))
        await asyncio.sleep(0)
        assert len(order) == 5
        assert turn.is_idle

    asyncio.run(run())
