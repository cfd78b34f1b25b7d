"""When drills run, and what has come of them: A/A drills one after the other, and now and then harm that must be found.

A slice of a few requests at a time, so seldom that all drills together take at most `monitor.drill_share` of the time; the log is
never kept waiting for longer than a slice. A drill that raises is dropped and counted as a failed turn; the next one begins a
minute later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from scipy.special import bdtrc

from gateway.core.fields import Json
from gateway.monitor.exercise import AA_REQUESTS, Drill, Ending, Exercise, Report
from gateway.monitor.gauges import Gauges
from gateway.ports.clock import Clock
from gateway.ports.readings import Detector
from gateway.settings import MonitorSettings

SLICE: Final = 10  # requests, about 2 ms: a tenth of what a page of the log takes
SLICE_S: Final = 0.05  # at least between two slices, whatever the clock says that they cost
REST_S: Final = 60.0  # after a drill that raised
REMEMBERED: Final = 200  # of the last A/A drills; some hours' worth
PLAUSIBLE: Final = 1e-4  # chance of so many false alarms at the configured rates, below which something is wrong


class Drills:
    """All drills of one life of the monitor; counters outlive it in its metrics.

    Raises nothing by itself: what a drill raises comes out of `turn`.
    """

    def __init__(self, detector: Callable[[int], Detector], *, settings: MonitorSettings, gauges: Gauges, clock: Clock) -> None:
        self._detector = detector
        self._settings = settings
        self._gauges = gauges
        self._clock = clock
        self._running: Exercise | None = None
        self._due: deque[Drill] = deque()
        self._slice_at_s = self._harm_at_s = clock.monotonic_s()
        self._last: dict[Drill, Report] = {}
        self._counts: dict[tuple[Drill, Ending], int] = {}
        self._alarms: deque[bool] = deque(maxlen=REMEMBERED)

    def turn(self) -> None:
        """Go on with a drill if it is time; returns at once when it is not, or when drills are off."""
        begin_s = self._clock.monotonic_s()
        if not self._settings.drill_s or begin_s < self._slice_at_s:
            return
        self._slice_at_s = begin_s + REST_S  # if the drill raises
        running, self._running = self._running or self._begun(begin_s), None
        report = running.go_on(SLICE)
        if report is None:
            self._running = running
        else:
            self._take(report)
        end_s = self._clock.monotonic_s()
        self._gauges.drilled(end_s - begin_s)
        self._slice_at_s = end_s + max(SLICE_S, (end_s - begin_s) / self._settings.drill_share)

    def body(self) -> Json:
        """Return what has come of drills since the monitor began, as the picture shows it."""
        return {
            "is_on": bool(self._settings.drill_s),
            "has_too_many_alarms": self._has_too_many_alarms(),
            **{drill.value: self._drill_body(drill) for drill in Drill},
        }

    def _begun(self, now_s: float) -> Exercise:
        if now_s >= self._harm_at_s:
            self._harm_at_s = now_s + self._settings.drill_s
            self._due.extend((Drill.HARM, Drill.DRIFT))  # the quicker first
        drill = self._due.popleft() if self._due else Drill.AA
        wall_s = self._clock.now_s()
        return Exercise(drill, seed=int(wall_s * 1e3), begin_s=wall_s, detector=self._detector, settings=self._settings)

    def _take(self, report: Report) -> None:
        self._last[report.drill] = report
        place = (report.drill, report.ending)
        self._counts[place] = self._counts.get(place, 0) + 1
        if report.drill is Drill.AA:
            self._alarms.append(report.ending is Ending.FALSE_ALARM)
        self._gauges.drill_ended(report)

    def _drill_body(self, drill: Drill) -> Json:
        last = self._last.get(drill)
        endings = {ending.value: count for (one, ending), count in self._counts.items() if one is drill}
        return {"endings": endings, "last": None if last is None else last.body()}

    def _has_too_many_alarms(self) -> bool:
        """Return whether the last A/A drills found more than the configured rates of false alarms explain."""
        alarms, runs = sum(self._alarms), len(self._alarms)
        chance = min(1.0, 0.01 + AA_REQUESTS / self._settings.false_alarm_events)
        return alarms > 0 and float(bdtrc(alarms - 1, runs, chance)) < PLAUSIBLE
