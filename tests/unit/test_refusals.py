"""What the workers refused in the last minutes, by route: counts that only grow become counts of a span."""

from __future__ import annotations

import pytest

from adapters.memory import ManualClock
from adapters.stores.memory import MemoryCheckpoints
from gateway.control.refusals import CONSUMER, SPAN_S, STEP_S, Refusals
from gateway.core.health import RefusalFacts
from gateway.ports.metrics import Sample


def refused(count: float, reason: str = "NotReady", route: str = "delays") -> Sample:
    """Return a worker's count of refusals."""
    return Sample("gateway_rejected_requests_total", (("route", route), ("reason", reason)), count)


def answered(count: float, kind: str = "live", route: str = "delays") -> Sample:
    """Return a worker's count of predictions."""
    place = (("route", route), ("variant", "champion"), ("version", "1"), ("kind", kind), ("outcome", "ok"))
    return Sample("gateway_predictions_total", place, count)


def test_refusals_are_those_since_the_first_reading():
    """What was counted before anybody read is of no known time; what came since is told by route, the commonest reason first."""
    found = Refusals()
    found.take({"w0": [refused(500.0), answered(1_000.0)]}, 0.0)
    assert found.facts() == {}

    worker = [
        refused(503.0),
        refused(4.0, "LoadFailed"),
        answered(1_020.0),
        answered(9.0, "shadow"),
        answered(5.0, route="fares"),
    ]
    found.take({"w0": worker, "w1": [refused(1.0, "LoadFailed")]}, STEP_S)

    assert found.facts() == {
        "delays": RefusalFacts(STEP_S, 28, (("LoadFailed", 5), ("NotReady", 3))),
        "fares": RefusalFacts(STEP_S, 5),
    }


def test_refusals_leave_out_the_fault_of_callers_and_the_load():
    """A wrong request, a full queue and what names no route say nothing of a route."""
    found = Refusals()
    found.take({}, 0.0)
    reasons = ("SignatureMismatch", "PoolSaturated", "Overloaded", "DeadlineExceeded", "CallerLeft")
    found.take({"w0": [*(refused(100.0, reason) for reason in reasons), refused(100.0, route="")]}, STEP_S)
    assert found.facts() == {}


def test_refusals_of_answers_whose_record_was_not_written_are_requests_once():
    """The log fails after the prediction was counted: ten of ten were refused, not ten of twenty."""
    found = Refusals()
    found.take({}, 0.0)
    found.take({"w0": [refused(10.0, "LogFull"), answered(10.0)]}, STEP_S)
    assert found.facts() == {"delays": RefusalFacts(STEP_S, 10, (("LogFull", 10),))}


def test_refusals_are_forgotten_after_their_span():
    """What was refused longer ago than the span counts no more."""
    found = Refusals()
    found.take({}, 0.0)
    found.take({"w0": [refused(7.0)]}, 10.0)
    found.take({"w0": [refused(7.0)]}, 9.0 + SPAN_S)
    assert found.facts()["delays"] == RefusalFacts(SPAN_S, 7, (("NotReady", 7),))
    found.take({"w0": [refused(7.0)]}, 10.0 + SPAN_S)
    assert found.facts() == {}


def test_refusals_go_on_when_a_count_begins_anew():
    """A worker whose numbers were written anew counts from nothing; a worker that is gone takes nothing back."""
    found = Refusals()
    found.take({"w0": [refused(100.0)], "w1": [refused(50.0)]}, 0.0)
    found.take({"w0": [refused(4.0)]}, STEP_S)
    assert found.facts()["delays"].reasons == (("NotReady", 4),)


def test_refusals_outlast_the_process_that_read_them():
    """A successor knows what was refused and since when, counts on from there, and forgets it after the span all the same."""
    clock, checkpoints = ManualClock(), MemoryCheckpoints()
    found = Refusals()
    for count in (0.0, 6.0):
        found.take({"w0": [refused(count), answered(2 * count)]}, clock.monotonic_s())
        found.keep(checkpoints, clock)
        clock.move(STEP_S)

    successor = Refusals()
    successor.recall(checkpoints, clock)
    assert successor.facts()["delays"].reasons == (("NotReady", 6),)
    successor.take({"w0": [refused(7.0), answered(14.0)]}, clock.monotonic_s())
    clock.move(STEP_S)
    successor.take({"w0": [refused(8.0), answered(14.0)]}, clock.monotonic_s())
    assert successor.facts() == {"delays": RefusalFacts(3 * STEP_S, 19, (("NotReady", 7),))}

    clock.move(SPAN_S - 2 * STEP_S)
    late = Refusals()
    late.recall(checkpoints, clock)
    late.take({}, clock.monotonic_s())
    assert late.facts() == {}


def test_refusals_are_written_only_while_there_are_any():
    """A gateway that refuses nobody writes nothing; one that stopped refusing leaves nothing for a successor to find."""
    clock, checkpoints = ManualClock(), MemoryCheckpoints()
    found = Refusals()
    for count in (0.0, 5.0):
        found.take({"w0": [answered(count)]}, clock.monotonic_s())
        found.keep(checkpoints, clock)
    assert checkpoints.load(CONSUMER) is None
    found.take({"w0": [answered(5.0), refused(3.0)]}, clock.monotonic_s())
    found.keep(checkpoints, clock)
    clock.move(SPAN_S)
    found.take({"w0": [answered(9.0), refused(3.0)]}, clock.monotonic_s())
    found.keep(checkpoints, clock)
    successor = Refusals()
    successor.recall(checkpoints, clock)
    assert successor.facts() == {}


@pytest.mark.parametrize("state", [b"{}", b"[]", b"x", b'{"time_s": 1, "began_s": 2, "steps": [[1]]}', b'{"time_s": "x"}'])
def test_refusals_that_cannot_be_read_stop_no_start(state):
    """A successor that does not know the saved form begins anew."""
    checkpoints = MemoryCheckpoints()
    checkpoints.save(CONSUMER, {}, state)
    found = Refusals()
    found.recall(checkpoints, ManualClock())
    assert found.facts() == {}
