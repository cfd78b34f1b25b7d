"""The keeper moves the log into the archive, and lets go only of what everybody has passed."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

import numpy as np
import pytest

from adapters.archives.duck import DuckArchive
from adapters.logs.codec import encode, record_from_body
from adapters.logs.segments import SegmentWriter
from adapters.memory import ManualClock, MemoryBank
from adapters.stores.memory import MemoryCheckpoints
from gateway.archive.keeper import Keeper, run_keeper
from gateway.core.errors import ArchiveFailed, LogFull
from gateway.core.partitions import WHOLE, partitions
from gateway.core.records import Offset
from gateway.core.tensors import Datatype, Tensor
from gateway.ports.archive import Filter
from gateway.settings import ArchiveSettings, LogSettings, Settings

ALL = Filter(limit=1_000_000)


@pytest.fixture
def kept(house):
    """Return a keeper of the house with its checkpoints, metrics and clock."""
    settings = ArchiveSettings(keep_segments_s=0.0, keep_s=1_000.0)
    clock = ManualClock(max(4e9, 0.0))
    return Keeper(
        settings,
        LogSettings(free_bytes_min=0),
        (WHOLE.consumer,),
        house.reader,
        house.store,
        house.archive,
        MemoryCheckpoints(),
        MemoryBank(),
        clock,
    )


def numbers(bank: MemoryBank) -> dict[str, float]:
    return {sample.name: sample.value for sample in bank.samples()}


def test_keeper_archives_closed_segments(house, prediction, kept):
    """A turn takes every closed segment of every stream and counts what it added."""
    for stream in ("w0", "w1"):
        house.write(*(prediction(number) for number in range(10)), stream=stream)
    house.store.repair()
    kept.settings = replace(kept.settings, keep_s=1e10)
    kept.turn(threading.Event())
    assert len(list(house.archive.query(ALL))) == 20
    counted = numbers(kept.metrics)
    assert counted["gateway_archive_records_total"] == 20
    assert counted["gateway_archive_lag_seconds"] == 0
    assert counted["gateway_log_segments"] == 2
    assert counted["gateway_log_free_bytes"] > 0


def test_keeper_removes_only_what_the_monitor_has_passed(house, prediction, kept):
    """A segment stays while the monitor's saved cursor is inside it, and goes once it is beyond; the open one never goes."""
    for start in (0, 10, 20):
        house.write(*(prediction(number) for number in range(start, start + 10)))
    house.store.repair()
    _, second, third = house.store.closed("w0")
    kept.turn(threading.Event())
    assert len(house.store.closed("w0")) == 3
    kept.checkpoints.save("monitor", {"w0": Offset(second.next - 1)}, b"")
    kept.turn(threading.Event())
    assert [segment.first for segment in house.store.closed("w0")] == [second.first, third.first]
    kept.checkpoints.save("monitor", {"w0": third.next}, b"")
    kept.turn(threading.Event())
    assert house.store.closed("w0") == []
    assert house.reader.end("w0") == third.next
    assert numbers(kept.metrics)["gateway_log_segments_removed_total"] == 3


def test_keeper_waits_for_every_monitor_process(house, prediction, kept):
    """Of several monitor processes the last one holds a segment back, also one that has saved nothing yet."""
    house.write(prediction(1))
    house.store.repair()
    (segment,) = house.store.closed("w0")
    first, second = kept.monitors = tuple(one.consumer for one in partitions(2))
    for consumer in (first, second):
        kept.turn(threading.Event())
        assert len(house.store.closed("w0")) == 1
        kept.checkpoints.save(consumer, {"w0": segment.next}, b"")
    kept.turn(threading.Event())
    assert house.store.closed("w0") == []


def test_keeper_keeps_segments_for_their_time(house, prediction, kept):
    """What everybody has passed still stays for `keep_segments_s`."""
    house.write(prediction(1))
    house.store.repair()
    (segment,) = house.store.closed("w0")
    kept.checkpoints.save("monitor", {"w0": segment.next}, b"")
    kept.settings = replace(kept.settings, keep_segments_s=kept.clock.now_s() - segment.closed_at_s + 1)
    kept.turn(threading.Event())
    assert len(house.store.closed("w0")) == 1


@pytest.fixture
def kept_long(kept):
    """Return a keeper whose segments are all younger than the time for which they are kept."""
    kept.settings = replace(kept.settings, keep_segments_s=1e12, keep_s=1e12)
    return kept


def test_full_log_takes_records_again_once_everybody_has_passed_it(house, prediction, kept_long):
    """A small log fills up; a turn after monitor and archive have passed it there is room, whatever `keep_segments_s` says."""
    size = len(encode([prediction(1)]))
    kept_long.bounds = LogSettings(bytes_max=20 * size, free_bytes_min=0)
    timer = ManualClock()
    writer = SegmentWriter(
        house.directory / "log",
        "w0",
        segment_bytes_max=1 << 30,
        segment_age_s=1e9,
        bytes_max=20 * size,
        free_bytes_min=0,
        clock=timer,
    )
    with contextlib.suppress(LogFull):
        while True:
            writer.append([prediction(1)])
    kept_long.turn(threading.Event())
    assert len(house.store.closed("w0")) > 2  # the monitor has passed nothing yet
    kept_long.checkpoints.save("monitor", {"w0": house.reader.end("w0")}, b"")
    kept_long.turn(threading.Event())
    timer.move(1.0)  # it looks again
    for number in range(9):
        writer.append([prediction(number)])
    writer.close()
    assert sum(segment.next - segment.first for segment in house.store.closed("w0")) >= 5 * size  # no more went than had to


def test_file_system_that_fills_up_gets_back_what_was_passed(house, prediction, kept_long):
    """Near `log.free_bytes_min` every passed segment goes at once, and no other."""
    for start in (0, 10):
        house.write(*(prediction(number) for number in range(start, start + 10)))
    house.store.repair()
    first, second = house.store.closed("w0")
    kept_long.checkpoints.save("monitor", {"w0": first.next}, b"")
    kept_long.turn(threading.Event())
    assert len(house.store.closed("w0")) == 2
    kept_long.bounds = LogSettings(free_bytes_min=house.store.free_bytes())
    kept_long.turn(threading.Event())
    assert house.store.closed("w0") == [second]


def test_keeper_drops_old_parquet(house, prediction, kept):
    """Parquet older than `keep_s` goes."""
    house.write(prediction(1))
    house.store.repair()
    kept.turn(threading.Event())
    assert list(house.archive.query(ALL)) == []
    assert numbers(kept.metrics)["gateway_archive_dropped_files_total"] == 1


def test_keeper_counts_a_failure_and_goes_on_with_other_streams(house, prediction, kept):
    """A segment that cannot be archived holds back its own stream, is never removed, and is counted as lag."""
    kept.settings = replace(kept.settings, keep_s=1e10)
    for stream in ("w0", "w1"):
        house.write(prediction(1), stream=stream)
    house.store.repair()
    (damaged,) = house.store.closed("w0")
    house.directory.joinpath(damaged.path).write_bytes(b"{\n")
    with pytest.raises(ArchiveFailed):
        house.archive.take(damaged)
    kept.checkpoints.save("monitor", {"w0": damaged.next, "w1": Offset(1 << 40)}, b"")
    kept.turn(threading.Event())
    assert len(list(house.archive.query(ALL))) == 1
    assert [len(house.store.closed(stream)) for stream in ("w0", "w1")] == [1, 0]
    assert numbers(kept.metrics)["gateway_archive_failures_total"] == 1
    assert numbers(kept.metrics)["gateway_archive_lag_seconds"] > 0


def test_keeper_runs_until_it_is_stopped(house, prediction, until):
    """The loop archives by itself and ends soon after it is told to."""
    house.write(prediction(1))
    house.store.repair()
    stop = threading.Event()
    keeper = threading.Thread(
        target=run_keeper,
        kwargs={
            "settings": replace(Settings(), archive=ArchiveSettings(poll_s=0.01, keep_s=1e12)),
            "log": house.reader,
            "segments": house.store,
            "archive": house.archive,
            "checkpoints": MemoryCheckpoints(),
            "metrics": MemoryBank(),
            "clock": ManualClock(),
            "stop": stop,
        },
    )
    keeper.start()
    until(lambda: house.archive.taken("w0") > 0)
    stop.set()
    keeper.join(10)
    assert not keeper.is_alive()


def test_keeper_joins_small_files(house, prediction, kept):
    """A turn joins what is due and counts it; the next ones go on."""
    kept.settings = replace(kept.settings, keep_s=1e12, keep_segments_s=1e12)
    for number in range(5):
        house.write(prediction(number))
    house.store.repair()
    kept.turn(threading.Event())
    assert numbers(kept.metrics)["gateway_archive_merged_files_total"] == 5
    assert len(list(house.archive.query(ALL))) == 5


def test_record_too_long_for_the_memory_loses_its_tensors_and_is_counted(house, prediction, kept):
    """What no part can hold is archived without inputs and outputs, counted, and holds back nothing."""
    house.write(prediction(1, inputs=(Tensor("x", Datatype.FP32, np.zeros((3_000_000, 1), np.float32)),)))
    house.write(prediction(2))
    house.store.repair()
    kept.archive = DuckArchive(house.directory / "small", memory_bytes=64 * 2**20)
    kept.settings = ArchiveSettings()
    kept.clock = ManualClock(prediction(2).time_s)
    kept.turn(threading.Event())
    after, shortened = kept.archive.query(ALL)
    assert after["inputs"]
    assert (shortened["prediction_id"], shortened["inputs"]) == (prediction(1).prediction_id, [])
    assert record_from_body(shortened).version == "1"
    assert numbers(kept.metrics)["gateway_archive_shortened_records_total"] == 1
    assert "gateway_archive_failures_total" not in numbers(kept.metrics)
    kept.archive.close()
