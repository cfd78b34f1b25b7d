"""The mapped file of what a worker runs."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from uuid import UUID, uuid4

from adapters.inflight import InFlightWatch, MappedInFlight
from gateway.ports.inflight import Place

PLACE = Place("delays", "delays", 3, "challenger", "2", "ab" * 32, "1.2.3")


def test_in_flight_tells_a_successor_what_was_running(tmp_path):
    """A run that was entered and not left is found by the next worker, once."""
    first = MappedInFlight(tmp_path / "w0")
    place, ids = first.bind(PLACE), [uuid4().bytes, uuid4().bytes]
    first.leave(first.enter(place, [uuid4().bytes]))
    first.enter(place, ids)

    second = MappedInFlight(tmp_path / "w0")
    found = second.left_behind()

    assert {UUID(one.prediction_id).bytes for one in found} == set(ids)
    assert all(one.place == PLACE and not one.was_hung for one in found)
    assert list(second.left_behind()) == []
    assert list(MappedInFlight(tmp_path / "w0").left_behind()) == []


def test_in_flight_survives_a_kill(tmp_path):
    """What a killed process was running is there for its successor, with the watchdog's mark."""
    program = f"""
import os, signal
from adapters.inflight import MappedInFlight
from gateway.ports.inflight import Place
flight = MappedInFlight(__import__("pathlib").Path({str(tmp_path / "w0")!r}))
flight.enter(flight.bind(Place("delays", "delays", 3, "challenger", "2", "ab" * 32, "1.2.3")), [bytes(range(16))])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    InFlightWatch(tmp_path / "w0").mark_hung()

    found = MappedInFlight(tmp_path / "w0").left_behind()

    assert [(UUID(one.prediction_id).bytes, one.place, one.was_hung) for one in found] == [(bytes(range(16)), PLACE, True)]


def test_in_flight_bounds_runs_and_ids(tmp_path):
    """More runs or ids than there is room for are left out, and nothing else is disturbed."""
    flight = MappedInFlight(tmp_path / "w0")
    place = flight.bind(PLACE)
    runs = [flight.enter(place, [os.urandom(16) for _ in range(100)]) for _ in range(80)]
    assert len(MappedInFlight(tmp_path / "w0").left_behind()) == 64 * 64
    for run in runs:
        flight.leave(run)
    assert flight.enter(place, [bytes(16)]) < 64


def test_watch_sees_the_loop_turn(tmp_path):
    """The watchdog reads the time of the last turn from another mapping of the file."""
    flight, watch = MappedInFlight(tmp_path / "w0"), InFlightWatch(tmp_path / "w0")
    first = watch.last_turn_s()
    flight.turned()
    assert watch.last_turn_s() > first > 0


def test_watch_never_sees_half_of_a_turn(tmp_path):
    """However often the loop turns while the watchdog looks, it reads a time at which it turned."""
    program = f"""
from pathlib import Path
from adapters.inflight import MappedInFlight
flight = MappedInFlight(Path({str(tmp_path / "w0")!r}))
print("turns", flush=True)
while True:
    flight.turned()
"""
    began_s = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout.readline() == b"turns\n"
            watch = InFlightWatch(tmp_path / "w0")
            earliest_s = min(watch.last_turn_s() for _ in range(2_000_000))  # a second
        finally:
            worker.kill()
    assert earliest_s >= began_s


def test_in_flight_keeps_the_newest_places(tmp_path):
    """Places beyond the room replace the oldest; a run on an overwritten place is left out rather than blamed on another."""
    flight = MappedInFlight(tmp_path / "w0")
    numbers = [flight.bind(replace(PLACE, revision=revision)) for revision in range(5_000)]
    flight.enter(numbers[0], [bytes(16)])
    flight.enter(numbers[-1], [bytes(range(16))])
    found = MappedInFlight(tmp_path / "w0").left_behind()
    assert [(UUID(one.prediction_id).bytes, one.place.revision) for one in found] == [(bytes(range(16)), 4_999)]


def test_in_flight_forgets_what_was_answered_otherwise(tmp_path):
    """An id that is forgotten is not the successor's to record; the rest of its run, and a run that took its place, are."""
    flight = MappedInFlight(tmp_path / "w0")
    place, ids = flight.bind(PLACE), [uuid4().bytes for _ in range(4)]
    over = flight.enter(place, ids[:2])
    flight.leave(over)
    run = flight.enter(place, ids[2:])
    assert run == over
    flight.forget(over, ids[0])  # of a run that ended meanwhile
    flight.forget(run, ids[2])
    assert [UUID(left.prediction_id).bytes for left in MappedInFlight(tmp_path / "w0").left_behind()] == [ids[3]]


def test_in_flight_holds_nothing_after_a_clean_stop(tmp_path):
    """A worker that stopped in order leaves nothing behind, whatever its threads still run or begin."""
    flight = MappedInFlight(tmp_path / "w0")
    place = flight.bind(PLACE)
    running = flight.enter(place, [uuid4().bytes])
    flight.close()
    flight.leave(flight.enter(place, [uuid4().bytes]))
    flight.enter(place, [uuid4().bytes])
    flight.leave(running)
    flight.enter(place, [uuid4().bytes])
    assert list(MappedInFlight(tmp_path / "w0").left_behind()) == []


def test_oldest_run_is_the_one_that_goes_on_longest(tmp_path):
    """What began first counts until it is over; without a run there is none."""
    flight = MappedInFlight(tmp_path / "w0")
    place = flight.bind(PLACE)
    assert flight.oldest_s() == math.inf
    before_s = time.monotonic()
    first = flight.enter(place, [bytes(16)])
    between_s = time.monotonic()
    second = flight.enter(place, [bytes(16)])
    assert before_s <= flight.oldest_s() <= between_s
    flight.leave(first)
    assert flight.oldest_s() >= between_s
    flight.leave(second)
    assert flight.oldest_s() == math.inf
