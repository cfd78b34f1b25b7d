"""Drift that both variants share: is a version ever blamed for it? `python -m loadtests.world [--runs N]`.

Errors and losses rise in champion and challenger at the same time, from printed seeds. Records go through the monitor's fold of a
rollout, its guardrails and the policy; the champion's errors through the watch of its own past. Beside it stands River's ADWIN on
the challenger's errors alone, at its defaults, as rollbacks by drift alarm are commonly wired.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from adapters.detectors.river import AdwinDetector
from gateway.core.attribution import Attribution
from gateway.core.drift import MERGE_S
from gateway.core.evidence import Outcome, Side
from gateway.core.guardrails import Measure
from gateway.core.outcomes import OutcomeWatch
from gateway.core.policy import Rollback, decide
from gateway.core.rollouts import CHALLENGER, CHAMPION, Plan
from gateway.core.split import SLOTS, hashed_key, slot_of
from gateway.monitor.drifting import OUTCOME_SHARE
from gateway.monitor.watch import RolloutWatch
from gateway.settings import MonitorSettings
from loadtests.detection import EPOCH_S, record, started

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
    share, alarmed_s, next_s = rollout.plan.steps[0] / SLOTS, float("-inf"), 0.0
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the table; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=200, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    kinds = [list(KINDS)[at % len(KINDS)] for at in range(options.runs)]
    with ProcessPoolExecutor(options.processes) as pool:
        ended = list(pool.map(world_rollout, kinds, range(options.seed, options.seed + options.runs), chunksize=5))
    print(f"World drift in both variants: {options.runs} rollouts of {REQUESTS:,} requests, seeds from {options.seed}")
    print(f"{'errors':<18}{'rollouts':>9}{'rolled back':>13}{'WORLD':>8}{'ADWIN alone':>13}")
    is_met = True
    for kind, (errors, _) in KINDS.items():
        chosen = [one for one, its in zip(ended, kinds, strict=True) if its == kind]
        back = sum(one.is_rolled_back for one in chosen)
        world = sum(Attribution.WORLD in one.attributions and Attribution.VERSION not in one.attributions for one in chosen)
        alarmed = sum(one.is_alarmed for one in chosen)
        is_met &= back == 0 and world >= 0.95 * len(chosen)
        rates = f"{errors[0]:.1%} → {errors[1]:.1%}"
        count = len(chosen)
        print(f"{rates:<18}{count:>9}{back:>13}{world / count:>8.0%}{alarmed / count:>13.0%}", flush=True)
    print("Targets met." if is_met else "A target was missed.")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
