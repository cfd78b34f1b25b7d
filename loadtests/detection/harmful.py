"""Harmful versions: after how many of its requests is one rolled back? One guardrail alone, and the default plan beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gateway.core.attribution import Attribution
from gateway.core.evidence import Evidence, Side
from gateway.core.evidence import Outcome as Contribution
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Verdict, judge
from gateway.core.plans import Plan
from gateway.core.policy import Rollback, decide
from gateway.core.rollouts import CHALLENGER
from gateway.core.split import SLOTS, slot_of
from gateway.monitor.watch import RolloutWatch
from loadtests.detection.lines import Asked, Line, delay_line
from loadtests.detection.made import DUMMY_EVERY, EPOCH_S, LOOK_EVERY, record, started, z_score

HARMS = ((0.10, 0.20, 200), (0.10, 0.40, 30), (0.001, 0.01, 550), (0.001, 0.05, 80))  # error rates, and the median wanted
REQUESTS = 40_000  # of both variants, after which harm counts as missed
RATE = 50.0  # a second


@dataclass(frozen=True)
class Delays:
    """Challenger requests until harm was found, infinite where it was not."""

    alone: float
    policy: float
    peeked: float


def harmful_rollout(champion: float, challenger: float, seed: int) -> Delays:
    """Run one rollout whose challenger fails more often, every request with a key of its own."""
    rng = np.random.default_rng([seed, round(champion * 1e6), round(challenger * 1e6)])
    rollout, route = started(f"salt-{seed}", Plan(advances_itself=False))
    watch = RolloutWatch(rollout, epoch_s=EPOCH_S)
    rail = replace(DEFAULT_GUARDRAILS[0], alpha_share=1.0)
    evidence = Evidence(rail.evidence_plan(0.01, EPOCH_S))
    share = rollout.plan.steps[0].weight / SLOTS
    looks, delays = [[0, 0], [0, 0]], {}
    for at, chance in enumerate(chances(rng)):
        now_s, key = at / RATE, f"{seed}-{at}"
        assigned = route.owners[slot_of(route.salt, key)]
        is_fault = chance < (challenger if assigned == CHALLENGER else champion)
        tally = looks[assigned == CHALLENGER]
        tally[0] += 1
        tally[1] += is_fault
        if "alone" not in delays:
            evidence.observe(Contribution(Side(assigned), key, float(is_fault), now_s, share))
            if evidence.has_reached_bound and judge(rail, evidence.reading()).verdict is Verdict.FAIL:
                delays["alone"] = looks[1][0]
        if "policy" not in delays and watch.observe(record(assigned, key, is_fault), now_s, share):
            facts = watch.facts(now_s=now_s, frozen_by=Attribution.NONE, is_automation_on=True, last_increase_s=None)
            if isinstance(decide(rollout, watch.findings(), facts), Rollback):
                delays["policy"] = looks[1][0]
        if "peeked" not in delays and at % LOOK_EVERY == LOOK_EVERY - 1 and z_score(looks) > 1.645:
            delays["peeked"] = looks[1][0]
        if len(delays) == 3:
            break
    return Delays(*(delays.get(rule, math.inf) for rule in ("alone", "policy", "peeked")))


def chances(rng: np.random.Generator) -> Iterator[float]:
    """Yield uniform numbers, `REQUESTS` of them."""
    for _ in range(REQUESTS // 1_000):
        yield from rng.random(1_000).tolist()


def harmful_lines(asked: Asked) -> Iterator[Line]:
    """Yield the challenger's requests until harm of several sizes is found."""
    runs = asked.of(2, 100, 500)
    for champion, challenger, most in HARMS:
        found = list(asked.pool.map(harmful_rollout, [champion] * runs, [challenger] * runs, asked.seeds(runs), chunksize=5))
        rates = f"errors {champion:.1%} → {challenger:.1%}"
        peeked = f"{DUMMY_EVERY}; peeked z {sorted(one.peeked for one in found)[runs // 2]:.0f}"
        yield delay_line(f"{rates}, alone", [one.alone for one in found], most, peeked)
        yield delay_line(f"{rates}, default plan", [one.policy for one in found], None, "")
