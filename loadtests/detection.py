"""How often a sound version is rolled back, and how fast a harmful one is: `python -m loadtests.detection [--runs N]`.

Everything between a record and a decision is the build's own: the monitor's fold of a rollout, its guardrails, the policy, the
split and, where both versions fail for a while, the workers' rule. Only the traffic is made up, from printed seeds. Beside it
stand a dummy that alarms every k requests of the challenger and a one-sided z-test at 5 % that is looked at again and again,
because a score means little without them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betaincinv

from gateway.core.attribution import Attribution
from gateway.core.evidence import Evidence, Side
from gateway.core.evidence import Outcome as Contribution
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Measure, Verdict, judge
from gateway.core.plans import Plan, Step
from gateway.core.policy import Advance, Rollback, decide
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.rollouts import CHALLENGER, CHAMPION, Event, Rollout, apply_event, begin
from gateway.core.routes import Route, champion_route
from gateway.core.split import SLOTS, hashed_key, slot_of
from gateway.monitor.watch import RolloutWatch
from gateway.serving.faults import FaultWindow
from gateway.settings import ServingSettings

EPOCH_S = 600.0
REQUESTS = 6_000  # of one A/A rollout…
RATE = 0.5  # …a second: over three hours, so that several epochs take part
KEYS = 500
KEYS_MAX = 5_000
LOOK_EVERY = 100  # requests between two looks of the peeked z-test: 60 looks a rollout
DUMMY_EVERY = 100  # requests of the challenger
HARMS = ((0.10, 0.20, 200, None), (0.10, 0.40, 30, 35), (0.001, 0.01, 550, None), (0.001, 0.05, 80, None))
OUTAGE_RATE = 100.0  # requests a second, a key each
OUTAGE_AFTER_S = 35.0  # looked at after it: the workers' rest of 30 s and what comes then
OUTAGE_WORKERS = (1, 2, 4)
OUTAGE_SPANS_S = (0.2, 1.0, 3.0)
OUTAGE_BEGINS_S = (0.5, 40.0)  # early in the epoch, where few keys are known, and late
OUTAGE_WEIGHTS = (1_000, 5_000)
DETECTION_REQUESTS = 40_000
DETECTION_RATE = 50.0


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


def started(salt: str, plan: Plan) -> tuple[Rollout, Route]:
    """Return a rollout at its first step, begun at time 0, and its route."""
    route = champion_route("delays", "1")
    return begin(route, id="r", challenger="2", plan=plan, salt=salt, now_s=0.0)


TEMPLATE = PredictionRecord(
    prediction_id="", time_s=0.0, kind=Kind.LIVE, model="delays", route="delays", revision=1, assigned=CHAMPION,
    variant=CHAMPION, version="1", digest="", attempts=(), assignment_key="", is_keyed=True, inputs=(), outputs=(),
    batch_rows=1, batch_position=0, runtime_version="", outcome=Outcome.OK, latency_us=500,
)  # fmt: skip


def record(assigned: str, key: str, is_fault: bool) -> PredictionRecord:
    """Return a live record; a challenger that fails hard is answered for by the champion."""
    outcome = Outcome.FAILED if is_fault else Outcome.OK
    return replace(
        TEMPLATE,
        assigned=assigned,
        variant=CHAMPION if is_fault else assigned,
        attempts=(Attempt(assigned, "2" if assigned == CHALLENGER else "1", outcome, 400),),
        assignment_key=key,
    )


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


def outage_rollout(outage: Outage, seed: int, after_s: float = OUTAGE_AFTER_S) -> float | None:
    """Run one rollout through an outage and return when it was rolled back, seconds since it began, or None."""
    rng = np.random.default_rng([seed, outage.workers, outage.weight, int(outage.begins_s * 10), int(outage.span_s * 10)])
    rollout, route = started(f"salt-{seed}", Plan(steps=(Step(outage.weight),), advances_itself=False))
    watch = RolloutWatch(rollout, epoch_s=EPOCH_S)
    windows, share, next_s = rested_windows(outage.workers), outage.weight / SLOTS, 0.0
    ends_s = outage.begins_s + outage.span_s
    for at in range(int((ends_s + after_s) * OUTAGE_RATE)):
        now_s, key, window = at / OUTAGE_RATE, f"{seed}-{at}", windows[rng.integers(outage.workers)]
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


def z_score(tallies: Sequence[Sequence[int]]) -> float:
    """Return the one-sided two-sample z of (count, bad) for champion and challenger."""
    (n_a, bad_a), (n_b, bad_b) = tallies
    pooled = (bad_a + bad_b) / max(n_a + n_b, 1)
    if not n_a or not n_b or not 0.0 < pooled < 1.0:
        return 0.0
    return (bad_b / n_b - bad_a / n_a) / math.sqrt(pooled * (1.0 - pooled) * (1.0 / n_a + 1.0 / n_b))


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
        now_s, key = at / DETECTION_RATE, f"{seed}-{at}"
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
    """Yield uniform numbers, `DETECTION_REQUESTS` of them."""
    for _ in range(DETECTION_REQUESTS // 1_000):
        yield from rng.random(1_000).tolist()


def upper_limit(hits: int, runs: int) -> float:
    """Return the one-sided 95 % upper limit of a proportion (Clopper and Pearson)."""
    return 1.0 if hits == runs else float(betaincinv(hits + 1, runs - hits, 0.95))


def report_sound(runs: int, seed: int, pool: ProcessPoolExecutor) -> bool:
    """Print the table of sound versions and return whether the target is met."""
    kinds = [KINDS[at % len(KINDS)] for at in range(runs)]
    verdicts = list(pool.map(sound_rollout, kinds, range(seed, seed + runs), chunksize=5))
    span_h = REQUESTS / RATE / 3_600
    print(f"\nSound versions: {runs} rollouts of {REQUESTS:,} requests over {span_h:.1f} h, from 10 % to 50 %, seeds from {seed}")
    print(f"{'traffic':<20}{'rollouts':>9}{'rolled back':>12}{'≤ (95 %)':>10}{'advanced':>10}{'peeked z':>10}{'dummy':>8}")
    for kind in (*KINDS, "all"):
        chosen = [verdict for verdict in verdicts if kind in (verdict.kind, "all")]
        count, back = len(chosen), sum(verdict.is_rolled_back for verdict in chosen)
        advanced, peeked = (
            sum(map(bool, column)) / count for column in zip(*((v.has_advanced, v.is_peeked) for v in chosen), strict=True)
        )
        print(
            f"{kind:<20}{count:>9}{back / count:>12.2%}{upper_limit(back, count):>10.2%}"
            f"{advanced:>10.0%}{peeked:>10.0%}{1:>8.0%}",
            flush=True,
        )
    for verdict in verdicts:
        if verdict.is_rolled_back:
            print(f"  {verdict.kind}: {verdict.reason}")
    return sum(verdict.is_rolled_back for verdict in verdicts) <= 0.01 * runs


def report_outages(runs: int, seed: int, pool: ProcessPoolExecutor) -> bool:
    """Print the table of sound versions that fail together for a while and return whether the target is met."""
    kinds = [
        Outage(workers, weight, begins_s, span_s)
        for weight in OUTAGE_WEIGHTS
        for begins_s in OUTAGE_BEGINS_S
        for workers in OUTAGE_WORKERS
        for span_s in OUTAGE_SPANS_S
    ]
    each = max(runs // len(kinds), 2)
    outages = kinds * each
    began = range(seed, seed + len(outages))
    ended = list(pool.map(outage_rollout, outages, began, chunksize=5))
    spans = "/".join(f"{span_s:g}" for span_s in OUTAGE_SPANS_S)
    print(f"\nSound versions that both fail for {spans} s, {OUTAGE_RATE:g} requests a second, {OUTAGE_AFTER_S:g} s after it")
    print(f"{'challenger':<12}{'begins':>8}{'workers':>9}{'rollouts':>10}{'rolled back':>13}{'≤ (95 %)':>10}")
    for weight in OUTAGE_WEIGHTS:
        for begins_s in OUTAGE_BEGINS_S:
            for workers in OUTAGE_WORKERS:
                place = (weight, begins_s, workers)
                chosen = [
                    end for one, end in zip(outages, ended, strict=True) if (one.weight, one.begins_s, one.workers) == place
                ]
                print_outages(f"{weight / SLOTS:<12.0%}{begins_s:>6g} s{workers:>9}", chosen)
    print_outages(f"{'all':<12}{'':>8}{'':>9}", ended)
    return sum(end is not None for end in ended) <= 0.01 * len(ended)


def print_outages(head: str, ended: Sequence[float | None]) -> None:
    """Print one row."""
    count, back = len(ended), sum(end is not None for end in ended)
    print(f"{head}{count:>10}{back / count:>13.2%}{upper_limit(back, count):>10.2%}", flush=True)


def report_harmful(runs: int, seed: int, pool: ProcessPoolExecutor) -> bool:
    """Print the table of harmful versions and return whether the targets are met."""
    most = f"{runs} rollouts a row, at most {DETECTION_REQUESTS:,} requests"
    print(f"\nHarm found, in requests of a 10 % challenger: {most}, seeds from {seed}")
    print(
        f"{'errors':<16}{'alone, α .01':>13}{'90 %':>7}{'target':>8}{'missed':>8}"
        f"{'default plan':>14}{'90 %':>7}{'target':>8}{'missed':>8}{'peeked z':>10}{'dummy':>7}"
    )
    is_met = True
    for champion, challenger, alone_max, policy_max in HARMS:
        found = list(pool.map(harmful_rollout, [champion] * runs, [challenger] * runs, range(seed, seed + runs), chunksize=5))
        alone, policy, peeked = (sorted(column) for column in zip(*((d.alone, d.policy, d.peeked) for d in found), strict=True))
        at = statistics.median_low
        is_met &= at(alone) <= alone_max and (policy_max is None or at(policy) <= policy_max)
        print(
            f"{f'{champion:.1%} → {challenger:.1%}':<16}{at(alone):>13.0f}{alone[int(0.9 * runs)]:>7.0f}{alone_max:>8}"
            f"{alone.count(math.inf) / runs:>8.0%}{at(policy):>14.0f}{policy[int(0.9 * runs)]:>7.0f}{policy_max or '–':>8}"
            f"{policy.count(math.inf) / runs:>8.0%}{at(peeked):>10.0f}{DUMMY_EVERY:>7}"
        )
    return is_met


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tables; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=300, help="rollouts of sound versions; a third as many a row of harmful ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        met = [
            report_sound(options.runs, options.seed, pool),
            report_outages(options.runs, options.seed, pool),
            report_harmful(max(options.runs // 3, 20), options.seed, pool),
        ]
    print(
        f"\nThe dummy alarms at every {DUMMY_EVERY}th request of the challenger, sound or not. {time.monotonic() - began:.0f} s."
    )
    print("Targets met." if all(met) else "A target was missed.")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
