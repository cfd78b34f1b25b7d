"""The small parts of a serving worker: ids, the fault window, the turn, the table."""

from __future__ import annotations

import asyncio
import uuid

import numpy as np
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
    watched = FaultWindow(window=window, faults_max=faults_max, rest_first_s=10.0, rest_s=10.0, rested=lambda: rests.append(1))
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
    watched = FaultWindow(window=4, faults_max=2, rest_first_s=10.0, rest_s=10.0, rested=lambda: None)
    for _ in range(2):
        watched.note(is_fault=True, now_s=0.0)
    assert [watched.admits(at) for at in (1.0, 9.9, 10.0, 10.1)] == [False, False, True, False]
    watched.note(is_fault=True, now_s=10.2)
    watched.note(is_fault=False, now_s=10.3)  # began before the rest; it says nothing
    assert [watched.admits(at) for at in (20.1, 20.2, 20.3)] == [False, True, False]
    watched.note(is_fault=False, now_s=20.4)
    assert watched.admits(20.5)


def _probed(watched: FaultWindow, now_s: float, *, is_fault: bool) -> float:
    """Return the time of the first probe from a time on, which ends as said."""
    while not watched.admits(now_s):
        now_s += 0.5
    watched.note(is_fault=is_fault, now_s=now_s)
    return now_s


def test_rests_double_while_a_version_fails_and_begin_anew_once_it_served_well():
    """Each failed probe doubles the rest up to the longest; a relapse goes on from there, unless it served as long as that."""
    watched = FaultWindow(window=4, faults_max=2, rest_first_s=1.0, rest_s=8.0, rested=lambda: None)
    for _ in range(2):
        watched.note(is_fault=True, now_s=0.0)
    probes = [0.0]
    for _ in range(6):
        probes.append(_probed(watched, probes[-1], is_fault=True))
    assert np.diff(probes).tolist() == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]

    back_s = _probed(watched, probes[-1], is_fault=False)
    for _ in range(2):
        watched.note(is_fault=True, now_s=back_s + 7.5)
    back_s, relapsed_s = _probed(watched, back_s + 7.5, is_fault=False), back_s + 7.5
    assert back_s - relapsed_s == 8.0

    for _ in range(2):
        watched.note(is_fault=True, now_s=back_s + 8.0)
    assert _probed(watched, back_s + 8.0, is_fault=False) == back_s + 9.0


def test_probe_that_runs_long_stays_alone():
    """However short the rest, nothing else tries a version whose probe has not ended; one that never ends is given up."""
    watched = FaultWindow(window=4, faults_max=1, rest_first_s=1.0, rest_s=8.0, rested=lambda: None)
    watched.note(is_fault=True, now_s=0.0)

    assert [watched.admits(at) for at in (1.0, 2.5, 8.9, 9.0)] == [True, False, False, True]


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


def test_turn_runs_one_version_again_while_its_budget_lasts():
    """A version whose requests share no run has as many runs in a turn as fit, and the rest in the next."""
    order: list[object] = []

    async def run() -> None:
        turn = Turn(asyncio.get_running_loop(), 100.0)
        turn.add(Counted(12, 10.0, order))
        await asyncio.sleep(0)
        assert len(order) == 10
        await asyncio.sleep(0)
        assert (len(order), turn.is_idle) == (12, True)

    asyncio.run(run())
