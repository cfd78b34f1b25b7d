"""The merged order of the log is a function of its streams, whenever and however they are read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.logs.memory import MemoryLog
from gateway.core.records import GroundTruthRecord, Heartbeat, Offset, Record, StreamEnd
from gateway.monitor.merge import SETTLE_S, Merge, Merged, refill

END_S = 1_000.0
NAMES = ("w0", "w1", "w2")


def _record(number: int, time_s: float) -> Record:
    return GroundTruthRecord(f"p-{number}", time_s, 0, 1, time_s)


def _log(written: list[tuple[str, Record]]) -> MemoryLog:
    log = MemoryLog()
    for name, record in written:
        log.append(name, [record])
    return log


def _drained(merge: Merge) -> list[Merged]:
    found = []
    while merge.peek() is not None:
        found.append(merge.pop())
    return found


def _read_all(log: MemoryLog, limit: int, merge: Merge | None = None) -> list[Merged]:
    merge = merge or Merge()
    found: list[Merged] = []
    while refill(merge, log, limit) + len(drained := _drained(merge)):
        found += drained
    return found


@st.composite
def _writings(draw: st.DrawFn) -> list[tuple[str, Record]]:
    """Draw what three workers write in the order of time; they are born late, stop, and come back."""
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.04, 0.3, 2.0]), min_size=1, max_size=40))
    written: list[tuple[str, Record]] = []
    now_s = 0.0
    for number, gap_s in enumerate(gaps):
        now_s += gap_s
        name = draw(st.sampled_from(NAMES))
        is_end = draw(st.integers(0, 5)) == 0
        written.append((name, StreamEnd(now_s) if is_end else _record(number, now_s)))
    return written


def _with_end(written: list[tuple[str, Record]]) -> list[tuple[str, Record]]:
    names = {name for name, _ in written}
    return [*written, *((name, Heartbeat(END_S)) for name in names), *((name, Heartbeat(END_S + 1.0)) for name in names)]


@settings(max_examples=300, deadline=None)
@given(written=_writings(), polls=st.lists(st.integers(0, 5), min_size=1, max_size=7), limit=st.integers(1, 50))
def test_merged_order_is_the_same_however_it_is_read(written, polls, limit):
    """A reader that follows the log while it grows and one that reads it afterwards agree, and both sort by time and stream."""
    written = _with_end(written)
    growing, live = MemoryLog(), Merge()
    followed: list[Merged] = []
    for number, (name, record) in enumerate(written):
        growing.append(name, [record])
        if poll := polls[number % len(polls)]:
            refill(live, growing, poll)
            followed += _drained(live)
    followed += _read_all(growing, 3, live)

    afterwards = _read_all(_log(written), limit)

    assert followed == afterwards
    assert [(m.time_s, m.stream, m.offset) for m in followed] == sorted((m.time_s, m.stream, m.offset) for m in followed)
    expected = [record for _, record in written if record.time_s < END_S]
    assert {id(m.record) for m in followed} >= {id(record) for record in expected}
    assert live.late_count == 0


@settings(max_examples=100, deadline=None)
@given(written=_writings(), pops=st.lists(st.integers(1, 10), min_size=1, max_size=5))
def test_merge_goes_on_from_its_positions(written, pops):
    """Merges that are thrown away at any point and begun again from their positions give each record once, in the same order."""
    written = _with_end(written)
    log, merge = _log(written), Merge()
    found: list[Merged] = []
    while True:
        count = refill(merge, log, 5)
        before = len(found)
        while merge.peek() is not None and len(found) - before < pops[len(found) % len(pops)]:
            found.append(merge.pop())
        if len(found) > before:
            merge = Merge(merge.positions())
        elif count == 0:
            break

    assert found == _read_all(_log(written), 1_000)


def test_merge_does_not_take_a_closed_stream_that_it_passed_over_for_ended():
    """A closed stream with enough records waiting is not read again; what it has got since still comes out in order."""
    log, merge = MemoryLog(), Merge()
    found: list[Merged] = []

    def follow(limit: int, *written: tuple[str, Record]) -> None:
        for name, record in written:
            log.append(name, [record])
        refill(merge, log, limit)
        found.extend(_drained(merge))

    follow(1, ("w0", StreamEnd(0.0)), ("w2", _record(1, 0.0)), ("w0", StreamEnd(0.0)), ("w0", _record(2, 0.3)))
    follow(2, ("w1", StreamEnd(0.3)))
    follow(3, ("w0", StreamEnd(0.6)))
    follow(1, ("w0", StreamEnd(0.6)), ("w0", StreamEnd(0.6)), ("w1", StreamEnd(0.6)), ("w2", StreamEnd(0.9)))
    found += _read_all(log, 3, merge)

    assert merge.late_count == 0
    assert [(m.time_s, m.stream) for m in found] == sorted((m.time_s, m.stream) for m in found)


def test_merge_waits_for_the_slowest_open_stream():
    """Nothing newer than the last record of an open stream leaves the merge, and a heartbeat lets it go."""
    log = _log([("w0", _record(0, 1.0)), ("w1", _record(1, 1.0)), ("w0", _record(2, 5.0)), ("w0", Heartbeat(9.0))])
    assert [m.time_s for m in _read_all(log, 10)] == [1.0, 1.0]

    log.append("w1", [Heartbeat(6.0)])

    assert [m.time_s for m in _read_all(log, 10)] == [1.0, 1.0, 5.0, 6.0]


def test_merge_does_not_wait_for_a_closed_stream():
    """After its end record a stream holds nothing back, until a later record opens it again."""
    log = _log([("w0", _record(0, 1.0)), ("w1", StreamEnd(1.0)), ("w0", _record(1, 8.0)), ("w0", Heartbeat(9.0))])
    assert [m.time_s for m in _read_all(log, 10)] == [1.0, 1.0, 8.0]

    log.append("w1", [_record(2, 9.1)])
    log.append("w0", [Heartbeat(10.0)])

    assert [m.time_s for m in _read_all(log, 10)] == [1.0, 1.0, 8.0, 9.0, 9.1]


def test_merge_leaves_time_for_streams_that_are_not_born():
    """A record stays until one newer by `SETTLE_S` was read, because another worker's first record may still be on its way."""
    log = _log([("w0", _record(0, 1.0)), ("w0", _record(1, 1.0 + SETTLE_S / 2))])
    merge = Merge()
    refill(merge, log, 10)
    assert _drained(merge) == []

    log.append("w1", [_record(2, 1.0 + SETTLE_S / 4)])
    log.append("w0", [Heartbeat(2.0)])
    log.append("w1", [Heartbeat(2.0)])

    assert [m.stream for m in _read_all(log, 10, merge)] == ["w0", "w1", "w0"]


def test_merge_bounds_what_waits():
    """While one stream lags, another is read one page ahead and no further."""
    log = _log([("w1", _record(0, 0.0)), *(("w0", _record(number, float(number))) for number in range(1, 200))])
    merge = Merge()
    for _ in range(50):
        refill(merge, log, 10)
        _drained(merge)

    assert merge.next_offset("w0") <= Offset(20)


def test_merge_keeps_the_order_when_a_clock_steps_back():
    """A record older than the one before it in its stream takes that one's time, so that a stream never falls."""
    log = _log([("w0", _record(0, 5.0)), ("w0", _record(1, 3.0)), ("w0", Heartbeat(7.0))])

    assert [m.time_s for m in _read_all(log, 10)] == [5.0, 5.0]
