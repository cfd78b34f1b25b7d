"""How often each guardrail convicts a sound version, and how soon a harmful one: `python -m loadtests.guardrails [--runs N]`.

One guardrail alone at α = .01, each request with a key of its own, a challenger of 10 %; shadows copy every request. Only the
outcomes are made up, from printed seeds. Beside it stands a fixed test of the same numbers at 5 %, looked at every hundred keys.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from gateway.core.evidence import Evidence, Outcome, Side
from gateway.core.guardrail_bodies import guardrails_from_bodies
from loadtests.detection.lines import upper_limit

ALPHA = 0.01
EPOCH_S = 600.0
SHARE = 0.1
KEYS_SOUND = 5_000  # a rollout of a sound version
KEYS_HARMFUL = 100_000
RATE = 50.0  # keys a second, so that a sound rollout is one epoch and a harmful one may be several
LOOK_EVERY = 100
SEGMENTS = (("a", 0.05), ("b", 0.2), ("c", 0.4))  # with rates of their own

Drawn = tuple[float, float, str]  # value, beside, segment
Draw = Callable[[np.random.Generator, bool], Drawn]


@dataclass(frozen=True)
class Case:
    """One guardrail, a sound version and a harmful one.

    Attributes:
        body: The guardrail, as a plan states it.
        is_paired: Whether both versions answer each request.
        harm: What the harmful one does, in words.
        number: Makes a number of what was drawn, for the fixed test.
    """

    body: dict[str, object]
    harm: str
    sound: Draw
    harmful: Draw
    number: Callable[[Drawn], float]
    is_paired: bool = False


def _probability(rng: np.random.Generator, off: float) -> Drawn:
    stated = float(rng.choice([0.15, 0.5, 0.85]))
    return stated, float(rng.random() < stated - off), ""


def _segmented(rng: np.random.Generator, everybody: float, one: float) -> Drawn:
    name, base = SEGMENTS[int(rng.integers(len(SEGMENTS)))]
    return float(rng.random() < base + everybody + (one if name == "a" else 0.0)), 0.0, name


def _value(drawn: Drawn) -> float:
    return drawn[0]


def _difference(drawn: Drawn) -> float:
    return drawn[0] - drawn[1]


CASES: dict[str, Case] = {
    "latency": Case(
        {"measure": "latency"},
        "twice as slow",
        lambda rng, _: (float(rng.lognormal()), 0.0, ""),
        lambda rng, side: (float(rng.lognormal(math.log(2.0) * side)), 0.0, ""),
        _value,
    ),
    "invalid outputs": Case(
        {"measure": "invalid_outputs"},
        ".1 → 2 %",
        lambda rng, _: (float(rng.random() < 0.001), 0.0, ""),
        lambda rng, side: (float(rng.random() < (0.02 if side else 0.001)), 0.0, ""),
        _value,
    ),
    "outputs": Case(
        {"measure": "outputs"},
        "half σ lower",
        lambda rng, _: (float(rng.normal()), 0.0, ""),
        lambda rng, side: (float(rng.normal(-0.5 * side)), 0.0, ""),
        lambda drawn: -drawn[0],
    ),
    "loss of numbers": Case(
        {"measure": "loss"},
        ".20 → .30",
        lambda rng, _: (float(rng.beta(1.0, 4.0)), 0.0, ""),
        lambda rng, side: (float(rng.beta(*((1.5, 3.5) if side else (1.0, 4.0)))), 0.0, ""),
        _value,
    ),
    "calibration": Case(
        {"measure": "calibration"},
        "off by .15",
        lambda rng, _: _probability(rng, 0.05),
        lambda rng, side: _probability(rng, 0.15 * side),
        _difference,
    ),
    "fairness": Case(
        {"measure": "fairness", "column": "segment"},
        "+.4 for one in three",
        lambda rng, side: _segmented(rng, 0.1 * side, 0.0),  # worse for all alike, which is not unfair
        lambda rng, side: _segmented(rng, 0.0, 0.4 * side),
        _value,
    ),
    "disagreement": Case(
        {"measure": "disagreement"},
        "5 → 10 %",
        lambda rng, _: (float(rng.random() < 0.05), 0.0, ""),
        lambda rng, _: (float(rng.random() < 0.10), 0.0, ""),
        lambda drawn: drawn[0] - 0.05,
        is_paired=True,
    ),
    "shadow loss": Case(
        {"measure": "shadow_loss"},
        "20 → 25 %, nested",
        lambda rng, _: (float(rng.random() < 0.2), float(rng.random() < 0.2), ""),
        lambda rng, _: (float((hard := rng.random()) < 0.25), float(hard < 0.20), ""),
        _difference,
        is_paired=True,
    ),
}


@dataclass(frozen=True)
class Found:
    """Keys until conviction, of both sides; infinite where there was none. And the same of the fixed test."""

    evidence: float
    peeked: float


def rollout(name: str, is_harmful: bool, seed: int) -> Found:
    """Run one rollout through the evidence of one guardrail."""
    case = CASES[name]
    rail = guardrails_from_bodies([case.body], name)[0]
    evidence = Evidence(rail.evidence_plan(ALPHA, EPOCH_S))
    rng = np.random.default_rng([seed, sorted(CASES).index(name), is_harmful])
    draw, share = (case.harmful if is_harmful else case.sound), 0.5 if case.is_paired else SHARE
    sums, found, peeked = np.zeros((2, 3)), math.inf, math.inf  # by side: count, sum, sum of squares
    for key in range(KEYS_HARMFUL if is_harmful else KEYS_SOUND):
        is_challenger = case.is_paired or bool(rng.random() < share)
        drawn = draw(rng, is_challenger)
        side = Side.CHALLENGER if is_challenger else Side.CHAMPION
        evidence.observe(Outcome(side, str(key), drawn[0], key / RATE, share, drawn[1], drawn[2]))
        number = case.number(drawn)
        sums[int(is_challenger)] += (1.0, number, number * number)
        if peeked == math.inf and key % LOOK_EVERY == LOOK_EVERY - 1 and _z(sums, case.is_paired) > 1.645:
            peeked = key + 1
        if evidence.has_reached_bound:
            found = key + 1
            break
    return Found(found, peeked)


def _z(sums: np.ndarray, is_paired: bool) -> float:
    """Return how many standard errors the challenger's mean lies above the champion's, or above 0 for pairs."""
    counts = np.maximum(sums[:, 0], 1.0)
    means = sums[:, 1] / counts
    variances = (sums[:, 2] / counts - means**2) / counts
    if is_paired:
        return float(means[1] / math.sqrt(max(variances[1], 1e-12)))
    return float((means[1] - means[0]) / math.sqrt(max(variances.sum(), 1e-12))) if sums[:, 0].min() > 1 else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 when a kind convicts sound versions more often than α allows, or misses the harm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    began, is_met = time.monotonic(), True
    seeds, harmful_runs = range(options.seed, options.seed + options.runs), max(options.runs // 4, 10)
    rows = f"{options.runs} sound rollouts of {KEYS_SOUND:,} keys a row and {harmful_runs} harmful ones"
    print(f"{rows}, α = {ALPHA}, seeds from {options.seed}")
    print(f"{'guardrail':<17}{'sound':>7}{'≤ (95 %)':>10}{'fixed test':>12}   {'harm':<22}{'keys':>7}{'90 %':>8}{'missed':>8}")
    with ProcessPoolExecutor(options.processes) as pool:
        for name, case in CASES.items():
            sound = list(pool.map(rollout, [name] * options.runs, [False] * options.runs, seeds, chunksize=10))
            harmful = list(pool.map(rollout, [name] * harmful_runs, [True] * harmful_runs, seeds[:harmful_runs], chunksize=5))
            wrong = sum(found.evidence < math.inf for found in sound)
            peeked = sum(found.peeked < math.inf for found in sound) / options.runs
            keys = sorted(found.evidence for found in harmful)
            missed = keys.count(math.inf) / harmful_runs
            is_met &= wrong <= max(2.0, 0.02 * options.runs) and missed <= 0.01
            share, limit = wrong / options.runs, upper_limit(wrong, options.runs)
            print(f"{name:<17}{share:>7.1%}{limit:>10.1%}{peeked:>12.0%}   {case.harm:<22}", end="")
            print(f"{statistics.median_low(keys):>7.0f}{keys[int(0.9 * harmful_runs)]:>8.0f}{missed:>8.0%}", flush=True)
    print(f"\nKeys are of both variants, of which a tenth are the challenger's; of pairs all. {time.monotonic() - began:.0f} s.")
    print("Targets met." if is_met else "A target was missed.")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
