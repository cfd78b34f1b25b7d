"""The recorder: one append a turn, time that never falls."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from adapters.logs.memory import MemoryLog
from adapters.memory import ManualClock, MemoryBank
from gateway.core.records import Anchor, Heartbeat, Offset
from gateway.serving.recorder import ANCHOR_S, Recorder
from gateway.settings import LogSettings


def test_time_of_records_goes_on_when_the_clock_is_set_back():
    """A clock that is set back neither turns the records' time back nor stops it, until wall time has caught up."""

    async def run() -> None:
        clock = ManualClock()
        loop = asyncio.get_running_loop()
        recorder = Recorder(MemoryLog().writer("w0"), settings=LogSettings(), metrics=MemoryBank(), clock=clock, loop=loop)
        before_s = recorder.time_s()
        clock.step(-90.0)
        times = []
        for _ in range(1_000):
            clock.move(1.0)
            times.append(recorder.time_s())
        assert [late - early for early, late in itertools.pairwise([before_s, *times[:800]])] == pytest.approx([0.9] * 800)
        assert times[-1] == clock.now_s()

    asyncio.run(run())


def test_time_of_records_goes_on_from_the_stream():
    """A worker that comes back never writes an earlier time than its predecessor did."""

    async def run() -> None:
        clock, log = ManualClock(), MemoryLog()
        log.append("w0", [Heartbeat(clock.now_s() + 50.0)])
        loop = asyncio.get_running_loop()
        recorder = Recorder(log.writer("w0"), settings=LogSettings(), metrics=MemoryBank(), clock=clock, loop=loop)
        assert recorder.time_s() >= clock.now_s() + 50.0

    asyncio.run(run())


def test_anchor_is_written_once_for_each_change_and_now_and_then():
    """The audit log's newest entry is written when it is another, and again after a day so that one is always kept."""

    async def run() -> None:
        clock, log = ManualClock(), MemoryLog()
        loop = asyncio.get_running_loop()
        recorder = Recorder(log.writer("w0"), settings=LogSettings(), metrics=MemoryBank(), clock=clock, loop=loop)
        for seq, hash, passed_s in (
            (1, "a", 1.0),
            (1, "a", 1.0),
            (2, "b", 1.0),
            (1, "a", 1.0),
            (1, "a", ANCHOR_S),
            (1, "a", 1.0),
        ):
            recorder.anchor(seq, hash)
            clock.move(passed_s)
        await recorder.close()
        anchors = [record for _, record in log.read("w0", Offset(0)).records if isinstance(record, Anchor)]
        assert [(anchor.seq, anchor.hash) for anchor in anchors] == [(1, "a"), (2, "b"), (1, "a"), (1, "a")]
        assert anchors[0].time_s < anchors[-1].time_s

    asyncio.run(run())


def test_records_of_one_turn_are_one_append():
    """What is added in one turn of the loop is written at once and in order; nobody is told before."""

    async def run() -> None:
        appends: list[int] = []
        log = MemoryLog()

        class Counting:
            resumed_s = 0.0

            def append(self, records):
                appends.append(len(records))
                return log.append("w0", records)

            def sync(self) -> None: ...

            def close(self) -> None: ...

        loop = asyncio.get_running_loop()
        recorder = Recorder(Counting(), settings=LogSettings(), metrics=MemoryBank(), clock=ManualClock(), loop=loop)
        waiters = [recorder.add(Heartbeat(float(at))) for at in range(5)]
        recorder.add_unwaited(Heartbeat(5.0))
        assert appends == []
        assert not any(waiter.done() for waiter in waiters)
        await asyncio.gather(*waiters)
        assert appends == [6]
        assert [record.time_s for _, record in log.read("w0", Offset(0)).records] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]

    asyncio.run(run())
