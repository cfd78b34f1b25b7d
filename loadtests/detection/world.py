"""Drift that both variants share: is a version ever blamed for it?

Errors and losses rise in champion and challenger at the same time. Records go through the monitor's fold of a rollout, its
guardrails and the policy; the champion's errors through the watch of its own past. Beside it stands River's ADWIN on the
challenger's errors alone, at its defaults, as rollbacks by drift alarm are commonly wired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adapters.detectors.river import AdwinDetector
from gateway.core.attribution import Attribution
from gateway.core.drift import MERGE_S
from gateway.core.evidence import Outcome, Side
from gateway.core.guardrails import Measure
from gateway.core.outcomes import OutcomeWatch
from gateway.core.plans import Plan
from gateway.core.policy import Rollback, decide
from gateway.core.rollouts import CHALLENGER, CHAMPION
from gateway.core.split import SLOTS, hashed_key, slot_of
from gateway.monitor.drifting import OUTCOME_SHARE
from gateway.monitor.watch import RolloutWatch
from gateway.settings import MonitorSettings
from loadtests.detection.lines import Asked, Line, interval, judged, share_text
from loadtests.detection.made import EPOCH_S, record, started

REQUESTS = 10_000
RATE = 5.0  # a second, a key each
ONSET = 5_000
KINDS = {"doubles": ((0.1, 0.2), (0.2, 0.4)), "begins": ((0.005, 0.1), (0.1, 0.2)), "outage": ((0.01, 0.6), (0.2, 0.8))}


@dataclass(frozen=True)
class Ended:
    """What became of one rollout."""

    is_rolled_back: bool
    attributions: frozenset[Attribution]
    is_alarmed: bool  # ADWIN on the challenger alone


def world_rollout(kind: str, seed: int) -> Ended:
    """Run one rollout of two identical versions whose world changes halfway."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    rollout, route = started(f"salt-{seed}-{kind}", Plan(advances_itself=False))
    watch, own = (
        RolloutWatch(rollout, epoch_s=EPOCH_S),
        OutcomeWatch(alarm_rows=MonitorSettings().false_alarm_events / OUTCOME_SHARE),
    )
    adwin, is_alarmed, said = AdwinDetector(), False, set()
    share, alarmed_s, next_s = rollout.plan.steps[0].weight / SLOTS, float("-inf"), 0.0
    for at in range(REQUESTS):
        now_s, key = at / RATE, f"{seed}-{at}"
        assigned = route.owners[slot_of(route.salt, key)]
        errors, losses = (rates[at >= ONSET] for rates in KINDS[kind])
        is_error, is_wrong = rng.random() < errors, rng.random() < losses
        is_urgent = watch.observe(record(assigned, hashed_key(key), is_error), now_s, share)
        if not is_error:
            is_urgent |= watch.observe_value(
                Measure.LOSS, Outcome(Side(assigned), hashed_key(key), float(is_wrong), now_s, share)
            )
        if assigned == CHALLENGER:
            is_alarmed |= adwin.update([float(is_error)]).alarm_count > 0
        if assigned == CHAMPION and own.observe(float(is_error)):
            alarmed_s = now_s
        if not is_urgent and now_s < next_s:
            continue
        next_s = now_s + 1.0
        frozen_by = Attribution.WORLD if now_s - alarmed_s < MERGE_S else Attribution.NONE
        facts = watch.facts(now_s=now_s, frozen_by=frozen_by, is_automation_on=True, last_increase_s=None)
        decision = decide(rollout, watch.findings(), facts)
        if at >= ONSET:
            said.add(decision.attribution)
        if isinstance(decision, Rollback):
            return Ended(True, frozenset(said), is_alarmed)
    return Ended(False, frozenset(said), is_alarmed)


def world_lines(asked: Asked) -> Iterator[Line]:
    """Yield what becomes of rollouts whose world changes halfway: by kind of change, and all together."""
    each = asked.of(1, 67, 200)
    made = [(kind, seed) for seed in asked.seeds(each) for kind in KINDS]
    ended = list(asked.pool.map(world_rollout, *zip(*made, strict=True), chunksize=3))
    for kind, (errors, _) in KINDS.items():
        chosen = [one for one, (its, _) in zip(ended, made, strict=True) if its == kind]
        yield from _lines(f"errors {errors[0]:.1%} → {errors[1]:.1%}", chosen)
    yield from _lines("all together", ended, has_target=True)


def _lines(what: str, ended: list[Ended], *, has_target: bool = False) -> Iterator[Line]:
    count, back = len(ended), sum(one.is_rolled_back for one in ended)
    world = sum(Attribution.WORLD in one.attributions and Attribution.VERSION not in one.attributions for one in ended)
    alarmed = share_text(sum(one.is_alarmed for one in ended), count).partition(" (")[0]
    if not has_target:
        yield Line(what, "", f"rolled back {back} of {count}, WORLD {world}", alarmed)
        return
    rolled = judged(back == 0, is_sure=count >= 200)
    yield Line(f"{what}: rolled back", "0 of 200", share_text(back, count), alarmed, rolled)
    low = interval(world, count)[0]
    yield Line(
        f"{what}: said WORLD", "≥ 95%", share_text(world, count), "never", judged(world >= 0.95 * count, is_sure=low >= 0.9)
    )
