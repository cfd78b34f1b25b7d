"""Drills: made-up harm is found, what finds nothing or too much is told, and all of it keeps to its share of the time."""

from __future__ import annotations

import pytest

from adapters.detectors.river import AdwinDetector
from adapters.memory import ManualClock, MemoryBank
from gateway.metrics.monitor import MONITOR_DRILL_DETECTION, MONITOR_DRILLS
from gateway.monitor import exercise
from gateway.monitor.drills import REST_S, Drills
from gateway.monitor.exercise import Drill, Ending, Exercise
from gateway.monitor.gauges import Gauges
from gateway.ports.readings import Reading
from gateway.settings import MonitorSettings

BEGIN_S = 1_700_000_000.0


class NervousDetector:
    """A detector that alarms at everything."""

    def __init__(self, _: int) -> None:
        pass

    def update(self, values):
        """Alarm."""
        return Reading(0.5, len(values))

    def state(self) -> bytes:
        """Return nothing."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take nothing."""


class WorkingClock(ManualClock):
    """A clock on which looking at the time takes some: 0.1 s pass between two looks."""

    def monotonic_s(self) -> float:
        """Return the time, later each time."""
        self.move(0.1)
        return super().monotonic_s()


def drilled(drill: Drill, *, detector=AdwinDetector, seed: int = 1) -> exercise.Report:
    """Run one drill to its end."""
    running = Exercise(drill, seed=seed, begin_s=BEGIN_S, detector=detector, settings=MonitorSettings())
    report = running.go_on(1_000_000)
    assert report is not None
    return report


def shown(bank: MemoryBank, name: str, **labels: str) -> float:
    """Return a number of the bank; 0 when there is none."""
    return next((one.value for one in bank.samples() if one.name == name and dict(one.labels) == labels), 0.0)


def drills(clock: ManualClock, bank: MemoryBank, *, detector=AdwinDetector, **settings: float) -> Drills:
    """Return drills that have not begun."""
    return Drills(detector, settings=MonitorSettings(**settings), gauges=Gauges(bank), clock=clock)


@pytest.mark.parametrize(("drill", "requests_max"), [(Drill.DRIFT, 128), (Drill.HARM, 300)])
def test_drill_with_harm_is_detected(drill, requests_max):
    """Harm that the targets speak of is found within some hundred requests, and the report counts from its beginning."""
    found = [drilled(drill, seed=seed) for seed in range(3)]
    assert {report.ending for report in found} == {Ending.DETECTED}
    assert all(0 < report.requests <= requests_max for report in found)
    assert drilled(drill, seed=1) == found[1]


def test_drill_of_equals_is_quiet():
    """Two versions alike and features as in training: nothing is found."""
    report = drilled(Drill.AA)
    assert (report.ending, report.requests) == (Ending.QUIET, exercise.AA_REQUESTS)


@pytest.mark.parametrize(("drill", "name", "harmless"), [(Drill.DRIFT, "SHIFT", 0.0), (Drill.HARM, "HARM", exercise.ERRORS)])
def test_drill_that_finds_nothing_is_missed(monkeypatch, drill, name, harmless):
    """When what was made up is not found in time, the drill says so."""
    monkeypatch.setattr(exercise, name, harmless)
    assert drilled(drill).ending is Ending.MISSED


@pytest.mark.parametrize("drill", [Drill.AA, Drill.DRIFT])
def test_alarm_without_harm_is_a_false_alarm(drill):
    """A detector that alarms at everything is found out: it speaks where nothing is, or before anything is."""
    assert drilled(drill, detector=NervousDetector).ending is Ending.FALSE_ALARM


def test_drills_run_harm_first_and_then_alike():
    """Both kinds of harm come at the start and with each period, A/A drills in between; metrics and picture tell of each."""
    clock, bank = ManualClock(BEGIN_S), MemoryBank()
    running = drills(clock, bank)
    while not shown(bank, MONITOR_DRILLS.name, drill="aa", ending="quiet"):
        running.turn()
        clock.move(0.1)
    body = running.body()
    assert body["harm"]["endings"] == body["drift"]["endings"] == {"detected": 1}
    assert shown(bank, MONITOR_DRILL_DETECTION.name, drill="drift") == body["drift"]["last"]["requests"]
    assert body["has_too_many_alarms"] is False
    clock.move(3_600.0)
    while running.body()["harm"]["endings"] != {"detected": 2}:
        running.turn()
        clock.move(0.1)


def test_drills_can_be_off():
    """A period of nothing turns all of them off."""
    clock = ManualClock(BEGIN_S)
    running = drills(clock, MemoryBank(), drill_s=0.0, detector=lambda _: pytest.fail("a drill began"))
    for _ in range(100):
        running.turn()
        clock.move(1.0)
    assert running.body()["is_on"] is False


@pytest.mark.parametrize("share", [MonitorSettings().drill_share, 0.25])
def test_drills_take_their_share_of_the_time(share):
    """After each slice there is a rest in proportion to what it took."""
    clock = WorkingClock(BEGIN_S)
    running = drills(clock, MemoryBank(), drill_share=share)
    running.turn()
    ended_s = clock.now_s()
    first = running._running._count
    while running._running._count == first:
        running.turn()
    assert 0.1 / share <= clock.now_s() - ended_s < 0.1 / share + 1.0


def test_drill_that_raises_is_dropped_and_tried_later():
    """What a drill raises is the turn's to count; the next drill begins after a rest, and with what is whole again."""
    clock = ManualClock(BEGIN_S)
    broken = [True]

    def detector(signals):
        if broken:
            raise ValueError("broken")
        return AdwinDetector(signals)

    running = drills(clock, MemoryBank(), detector=detector)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            running.turn()
        clock.move(REST_S - 1.0)
        running.turn()  # rests
        clock.move(1.0)
    broken.clear()
    while not any(running.body()[drill.value]["endings"] for drill in Drill):
        running.turn()
        clock.move(0.1)


def test_false_alarms_beyond_chance_are_told():
    """A/A drills that alarm more often than the configured rates explain are a finding about the monitor itself."""
    clock, bank = ManualClock(BEGIN_S), MemoryBank()
    running = drills(clock, bank, detector=NervousDetector)
    while not running.body()["has_too_many_alarms"]:
        running.turn()
        clock.move(0.1)
    assert 3 <= shown(bank, MONITOR_DRILLS.name, drill="aa", ending="false_alarm") <= 4
