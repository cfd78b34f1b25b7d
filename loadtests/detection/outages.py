"""Outages that both versions share: with the workers' own rule at work, is one of them blamed?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gateway.core.attribution import Attribution
from gateway.core.plans import Plan, Step
from gateway.core.policy import Rollback, decide
from gateway.core.records import PredictionRecord
from gateway.core.rollouts import CHALLENGER, CHAMPION
from gateway.core.split import SLOTS, slot_of
from gateway.monitor.watch import RolloutWatch
from gateway.serving.faults import FaultWindow
from gateway.settings import ServingSettings
from loadtests.detection.lines import Asked, Line, judged, share_text, upper_limit
from loadtests.detection.made import EPOCH_S, record, started

RATE = 100.0  # requests a second, a key each
AFTER_S = 35.0  # looked at after it: the workers' rest of 30 s and what comes then
WORKERS = (1, 2, 4)
SPANS_S = (0.2, 1.0, 3.0)
BEGINS_S = (0.5, 40.0)  # early in the epoch, where few keys are known, and late
WEIGHTS = (1_000, 5_000)


@dataclass(frozen=True)
class Outage:
    """A short time in which everything fails, whatever the version: a feature store away, a full disk, an overloaded machine.

    Attributes:
        weight: The challenger's slots of 10,000.
        begins_s: Since the rollout began.
        challenger_errors: The challenger's own rate of faults at all times; 0 for one like the champion.
    """

    workers: int
    weight: int
    begins_s: float = 0.0
    span_s: float = 0.0
    challenger_errors: float = 0.0


def outage_rollout(outage: Outage, seed: int, after_s: float = AFTER_S) -> float | None:
    """Run one rollout through an outage and return when it was rolled back, seconds since it began, or None."""
    rng = np.random.default_rng([seed, outage.workers, outage.weight, int(outage.begins_s * 10), int(outage.span_s * 10)])
    rollout, route = started(f"salt-{seed}", Plan(steps=(Step(outage.weight),), advances_itself=False))
    watch = RolloutWatch(rollout, epoch_s=EPOCH_S)
    windows, share, next_s = rested_windows(outage.workers), outage.weight / SLOTS, 0.0
    ends_s = outage.begins_s + outage.span_s
    for at in range(int((ends_s + after_s) * RATE)):
        now_s, key, window = at / RATE, f"{seed}-{at}", windows[rng.integers(outage.workers)]
        assigned = route.owners[slot_of(route.salt, key)]
        chance = 1.0 if outage.begins_s <= now_s < ends_s else 0.001
        if assigned == CHALLENGER:
            chance = max(chance, outage.challenger_errors)
        made = routed(window, assigned, key, is_fault=bool(rng.random() < chance), now_s=now_s)
        if not watch.observe(made, now_s, share) and now_s < next_s:
            continue
        next_s = now_s + 1.0
        facts = watch.facts(now_s=now_s, frozen_by=Attribution.NONE, is_automation_on=True, last_increase_s=None)
        if isinstance(decide(rollout, watch.findings(), facts), Rollback):
            return now_s
    return None


def rested_windows(workers: int) -> list[FaultWindow]:
    """Return the challenger's fault window on each worker, with the default settings."""
    rule = ServingSettings()
    return [
        FaultWindow(
            window=rule.fault_window,
            faults_max=rule.faults_max,
            rest_first_s=rule.fault_rest_first_s,
            rest_s=rule.fault_rest_s,
            rested=lambda: None,
        )
        for _ in range(workers)
    ]


def routed(window: FaultWindow, assigned: str, key: str, *, is_fault: bool, now_s: float) -> PredictionRecord:
    """Return the record that a worker writes: while the challenger rests there the champion answers, and the record says so."""
    resting = (CHALLENGER,) if window.is_resting(now_s) else ()
    if assigned == CHALLENGER and not window.admits(now_s):
        return replace(record(CHAMPION, key, is_fault), assigned=CHALLENGER, resting=resting)
    if assigned == CHALLENGER:
        window.note(is_fault=is_fault, now_s=now_s)
    return replace(record(assigned, key, is_fault), resting=resting)


def outage_lines(asked: Asked) -> Iterator[Line]:
    """Yield how often a sound version is rolled back because both failed for a while, over all weights, workers and spans."""
    kinds = [
        Outage(workers, weight, begins_s, span_s)
        for weight in WEIGHTS
        for begins_s in BEGINS_S
        for workers in WORKERS
        for span_s in SPANS_S
    ]
    chosen = kinds[:2] if (each := asked.of(0, 4, 28)) == 0 else kinds * each
    ended = list(asked.pool.map(outage_rollout, chosen, asked.seeds(len(chosen)), chunksize=4))
    count, back = len(ended), sum(end is not None for end in ended)
    spans = "/".join(f"{span_s:g}" for span_s in SPANS_S)
    verdict = judged(back <= 0.01 * count, is_sure=upper_limit(back, count) <= 0.03)
    yield Line(f"both fail for {spans} s", "≤ 1%, surely ≤ 3%", share_text(back, count), "alarms 100%", verdict)
