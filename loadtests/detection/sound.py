"""Sound versions: how often is one rolled back? A/A rollouts through the whole policy, on keyed traffic of four kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gateway.core.attribution import Attribution
from gateway.core.evidence import Outcome as Contribution
from gateway.core.evidence import Side
from gateway.core.guardrails import Measure
from gateway.core.plans import Plan
from gateway.core.policy import Advance, Rollback, decide
from gateway.core.rollouts import CHALLENGER, Event, apply_event
from gateway.core.split import SLOTS, hashed_key, slot_of
from gateway.monitor.watch import RolloutWatch
from loadtests.detection.lines import Asked, Line, judged, share_text, upper_limit
from loadtests.detection.made import EPOCH_S, LOOK_EVERY, record, started, z_score
from loadtests.detection.outages import outage_lines
from loadtests.detection.promoted import promoted_lines

REQUESTS = 6_000  # of one A/A rollout…
RATE = 0.5  # …a second: over three hours, so that several epochs take part
KEYS = 500
KEYS_MAX = 5_000


@dataclass(frozen=True)
class Traffic:
    """Requests of one A/A rollout: a key each, and what either version would answer to it.

    Attributes:
        keys: Shape (requests,). Index of the caller.
        errors, losses: Shape (requests,). 0 or 1, whichever version answers.
    """

    keys: np.ndarray
    errors: np.ndarray
    losses: np.ndarray


def traffic(kind: str, rng: np.random.Generator) -> Traffic:
    """Return the made-up traffic of one kind."""
    uniform = rng.integers(0, KEYS, REQUESTS)
    match kind:
        case "uniform":  # every caller alike, and ten times as many, which lets most rollouts advance by themselves
            keys = rng.integers(0, KEYS_MAX, REQUESTS)
            return Traffic(keys, rng.random(REQUESTS) < 0.005, rng.random(REQUESTS) < 0.2)
        case "zipf":  # few callers send most, each with rates of its own
            weights = 1.0 / np.arange(1, KEYS + 1)
            keys = rng.choice(KEYS, REQUESTS, p=weights / weights.sum())
            return _own_effects(keys, rng)
        case "own effects":
            return _own_effects(uniform, rng)
        case "one always failing":  # with one request in twenty
            keys = np.where(rng.random(REQUESTS) < 0.05, 0, uniform)
            return Traffic(keys, (keys == 0) | (rng.random(REQUESTS) < 0.02), (keys == 0) | (rng.random(REQUESTS) < 0.2))
        case _:
            raise ValueError(kind)


def _own_effects(keys: np.ndarray, rng: np.random.Generator) -> Traffic:
    errors, losses = rng.beta(0.2, 1.8, KEYS), rng.beta(0.5, 2.0, KEYS)  # most callers hardly ever, some nearly always
    return Traffic(keys, rng.random(REQUESTS) < errors[keys], rng.random(REQUESTS) < losses[keys])


KINDS = ("uniform", "zipf", "own effects", "one always failing")


@dataclass(frozen=True)
class Verdicts:
    """What became of one A/A rollout under each rule."""

    kind: str
    is_rolled_back: bool
    has_advanced: bool
    is_peeked: bool
    reason: str


def sound_rollout(kind: str, seed: int) -> Verdicts:
    """Run one rollout of two identical versions through the monitor's fold and the policy."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    made = traffic(kind, rng)
    rollout, route = started(f"salt-{seed}-{kind}", Plan())
    watch = RolloutWatch(rollout, epoch_s=EPOCH_S)
    names = [hashed_key(f"caller-{key}") for key in range(KEYS_MAX)]
    slots = [slot_of(route.salt, f"caller-{key}") for key in range(KEYS_MAX)]
    last_increase_s: float | None = None
    looks, is_peeked, reason, next_s = [[0, 0], [0, 0]], False, "", 0.0
    for at in range(REQUESTS):
        now_s, key = at / RATE, int(made.keys[at])
        assigned, share = route.owners[slots[key]], rollout.plan.steps[rollout.step].weight / SLOTS
        is_urgent = watch.observe(record(assigned, names[key], bool(made.errors[at])), now_s, share)
        loss = Contribution(Side(assigned), names[key], float(made.losses[at]), now_s, share)
        is_urgent |= watch.observe_value(Measure.LOSS, loss)
        tally = looks[assigned == CHALLENGER]
        tally[0] += 1
        tally[1] += int(made.errors[at])
        is_peeked |= at % LOOK_EVERY == LOOK_EVERY - 1 and z_score(looks) > 1.645
        if at == REQUESTS // 2 and rollout.step == 0:  # by then a person is bored and advances it
            rollout, route = apply_event(rollout, route, Event.ADVANCE, reason="a person", now_s=now_s)
            watch.learn(rollout)
        if not is_urgent and now_s < next_s:
            continue
        next_s = now_s + 1.0
        facts = watch.facts(now_s=now_s, frozen_by=Attribution.NONE, is_automation_on=True, last_increase_s=last_increase_s)
        match decide(rollout, watch.findings(), facts):
            case Rollback() as decision:
                reason = decision.reason
                break
            case Advance() as decision:
                rollout, route = apply_event(rollout, route, decision.event, reason=decision.reason, now_s=now_s)
                watch.learn(rollout)
                last_increase_s = now_s
                if not rollout.is_open:
                    break
    return Verdicts(kind, bool(reason), last_increase_s is not None, is_peeked, reason)


def sound_lines(asked: Asked) -> Iterator[Line]:
    """Yield how often sound versions are rolled back: by kind of traffic, and where both versions fail for a while."""
    each = asked.of(1, 75, 1_000)
    made = [(kind, seed) for seed in asked.seeds(each) for kind in KINDS]
    verdicts = list(asked.pool.map(sound_rollout, *zip(*made, strict=True), chunksize=4))
    for kind in KINDS:
        yield _sound_line(kind, [one for one in verdicts if one.kind == kind], has_target=each >= 1_000)
    yield _sound_line("all kinds", verdicts, has_target=True)
    yield from outage_lines(asked)
    yield from promoted_lines(asked)
    for verdict in verdicts:
        if verdict.is_rolled_back:
            yield Line(f"rolled back: {verdict.kind}", "", verdict.reason)


def _sound_line(what: str, verdicts: list[Verdicts], *, has_target: bool) -> Line:
    count, back = len(verdicts), sum(verdict.is_rolled_back for verdict in verdicts)
    peeked, advanced = sum(one.is_peeked for one in verdicts) / count, sum(one.has_advanced for one in verdicts) / count
    found, dummy = f"{share_text(back, count)}, advanced {advanced:.0%}", f"peeked z {peeked:.0%}, alarms 100%"
    if not has_target:
        return Line(what, "", found, dummy)
    verdict = judged(back <= 0.01 * count, is_sure=upper_limit(back, count) <= 0.02)
    return Line(what, "≤ 1%, surely ≤ 2%", found, dummy, verdict)
