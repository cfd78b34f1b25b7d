"""Faults that come and go: how often is a route's challenger given more callers by itself?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gateway.compose.past import opened_past
from gateway.core.access import MONITOR
from gateway.core.rollouts import Event
from gateway.monitor.act import action_of
from loadtests.detection.life import BEGIN_S, CALM, PLAN, RATE, Fault, live
from loadtests.detection.lines import Asked, Line, judged

SPAN_S = 900.0  # in which a route may have one automatic increase
FAULTS = (Fault(300.0, 30.0, errors=0.3), Fault(1_200.0, 60.0, errors=0.3), Fault(3_600.0, 300.0, losses=0.5))
INCREASES = frozenset({action_of(Event.ADVANCE), action_of(Event.PROMOTE)})
DUMMY_CHECK_S = 60.0  # between two looks of a controller at the share of failed answers since the last…
DUMMY_BOUND = 0.05  # …over which it goes back to nothing


def increases(fault: Fault, hours: float, seed: int) -> tuple[list[float], int]:
    """Return when the monitor gave a challenger more callers, in seconds, and how often it rolled one back."""
    with tempfile.TemporaryDirectory() as scratch:
        live(Path(scratch), fault, hours, seed)
        with opened_past(Path(scratch)) as past:
            decided = [entry for entry in past.registry.audit(0, 100_000) if entry.principal == MONITOR.name]
    times_s = [float(str(entry.evidence["log_time_s"])) for entry in decided if entry.action in INCREASES]
    return times_s, sum(entry.action == action_of(Event.CONVICT) for entry in decided)


def controller(fault: Fault, hours: float, seed: int) -> list[float]:
    """Return when a controller that looks at the last minute's failures alone would have given a challenger more callers."""
    random, weights, step, times_s = np.random.default_rng(seed), [step.weight for step in PLAN.steps], -1, []
    for check in range(int(hours * 3_600.0 / DUMMY_CHECK_S)):
        moments = BEGIN_S + (check + np.arange(0.0, 1.0, 1.0 / (RATE * DUMMY_CHECK_S))) * DUMMY_CHECK_S
        chances = [max(CALM, fault.errors, fault.losses) if fault.is_on(moment - BEGIN_S) else CALM for moment in moments]
        if float(np.mean(random.random(len(chances)) < chances)) > DUMMY_BOUND:
            step = -1
        elif step + 1 < len(weights):
            step += 1
            times_s.append(float(moments[-1]))
    return times_s


def most_within(times_s: Sequence[float], span_s: float = SPAN_S) -> int:
    """Return the greatest number of moments in any span, its end left out."""
    return max((sum(0.0 <= other - time_s < span_s for other in times_s) for time_s in times_s), default=0)


def flapping_lines(asked: Asked) -> Iterator[Line]:
    """Yield the most automatic increases in a quarter of an hour, for faults of several periods."""
    hours, faults = asked.of(0.1, 3.0, 24.0), asked.of(FAULTS[1:2], FAULTS, FAULTS)
    lives = asked.pool.map(increases, faults, [hours] * len(faults), [asked.seed] * len(faults))
    for fault, (times_s, rollbacks) in zip(faults, lives, strict=True):
        most, dummy = most_within(times_s), most_within(controller(fault, hours, asked.seed))
        found = f"{most} ({len(times_s)} in {hours:g} h, {rollbacks} rollbacks)"
        harm = f"{fault.errors:.0%} errors" if fault.errors else f"{fault.losses:.0%} wrong"
        what = f"{harm} for {fault.span_s:g} s in {fault.period_s:g} s"
        yield Line(what, "≤ 1 in 15 min", found, f"{dummy}", judged(most <= 1, is_sure=bool(times_s)), is_exact=True)
