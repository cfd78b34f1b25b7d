"""Sound versions after their promotion: how often does the version before, in the shadow, seem to do better?

Both versions err independently at the same rates, which is the hardest case: a model and its copy would mostly agree. Halfway the
world gets worse for both, so that the promoted version's own past speaks against it each time, and only the pairs keep it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gateway.core.attribution import Attribution
from gateway.core.hindsight import ERRORS, LOSS, Worsening
from gateway.core.models import Digest, Runtime, Target, Task, Version
from gateway.core.outcomes import OutcomeWatch
from gateway.core.plans import Plan
from gateway.core.policy import Rollback, decide
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.rollouts import CHAMPION, PREVIOUS, Event, Rollout, apply_event
from gateway.core.split import hashed_key
from gateway.core.tensors import Datatype, Signature, Tensor
from gateway.monitor.drifting import OUTCOME_SHARE
from gateway.monitor.watch import RolloutWatch
from gateway.settings import MonitorSettings
from loadtests.detection.lines import Asked, Line, judged, share_text, upper_limit
from loadtests.detection.made import EPOCH_S, TEMPLATE, started

REQUESTS = 14_400
RATE = 4.0  # a second: the hour of the default cool-down, of which a tenth is copied
ONSET = REQUESTS // 2
KEYS = 5_000
HARM = 0.2  # further requests that go wrong from then on, in errors and in answers alike
KINDS = ("uniform", "zipf", "own effects", "one always failing")
_TARGET = Target(Task.BINARY, "probability", ("no", "yes"), "yes")
_ANSWERS = tuple(Tensor("probability", Datatype.FP32, np.array([[value]], np.float32)) for value in (0.9, 0.1))


@dataclass(frozen=True)
class Callers:
    """Who asks, and how often either version errs for them.

    Attributes:
        weights, errors, losses: Shape (callers,). Their share of the requests, and both versions' rates.
    """

    weights: np.ndarray
    errors: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True)
class Cooled:
    """What became of one promoted version."""

    kind: str
    is_rolled_back: bool
    is_alarmed: bool
    reason: str


def callers(kind: str, rng: np.random.Generator) -> Callers:
    """Return the callers of one kind of traffic, as for rollouts."""
    even, errors, losses = np.full(KEYS, 1.0 / KEYS), np.full(KEYS, 0.02), np.full(KEYS, 0.2)
    match kind:
        case "uniform":
            return Callers(even, errors, losses)
        case "zipf":
            weights = 1.0 / np.arange(1, KEYS + 1)
            return Callers(weights / weights.sum(), rng.beta(0.2, 1.8, KEYS), rng.beta(0.5, 2.0, KEYS))
        case "own effects":
            return Callers(even, rng.beta(0.2, 1.8, KEYS), rng.beta(0.5, 2.0, KEYS))
        case "one always failing":
            errors[0] = losses[0] = 1.0
            weights = np.full(KEYS, 0.95 / (KEYS - 1))
            weights[0] = 0.05
            return Callers(weights, errors, losses)
        case _:
            raise ValueError(kind)


def promoted_version(kind: str, seed: int, better: float = 0.0) -> Cooled:
    """Run one cool-down through the monitor's fold of a rollout, the watch of the version's own past, and the policy.

    Args:
        better: The part of what gets worse that the version before is spared; 0 for a sound version.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    made, rollout = callers(kind, rng), _promoted(f"salt-{seed}-{kind}")
    watch = RolloutWatch(rollout, epoch_s=EPOCH_S, version_of=_version)
    alarm_rows = MonitorSettings().false_alarm_events / OUTCOME_SHARE
    own = {name: OutcomeWatch(alarm_rows=alarm_rows) for name in (ERRORS, LOSS)}
    names = [hashed_key(f"caller-{key}") for key in range(KEYS)]
    keys, next_s = rng.choice(KEYS, REQUESTS, p=made.weights), 0.0
    for at, key in enumerate(keys):
        now_s, is_worse = at / RATE, at >= ONSET
        draws = rng.random((2, 4))  # of the version and of the one before: error, loss, and what the world adds to each
        harm = (HARM * is_worse, HARM * is_worse * (1.0 - better))
        errs = [bool(one[0] < made.errors[key] or one[2] < more) for one, more in zip(draws, harm, strict=True)]
        wrong = [bool(one[1] < made.losses[key] or one[3] < more) for one, more in zip(draws, harm, strict=True)]
        live = _live(f"p{at}", names[key], is_fault=errs[0], is_wrong=wrong[0])
        watch.observe_beside(live, now_s)
        watch.observe_pairable(live, now_s)
        if rng.random() < rollout.plan.cool_down_fraction:
            copy = _copy(live, is_fault=errs[1], is_wrong=wrong[1])
            watch.observe_beside(copy, now_s)
            watch.observe_pairable(copy, now_s)
        _look_back(own[ERRORS], watch, ERRORS, is_bad=errs[0])
        if not errs[0]:
            watch.observe_truth(live.prediction_id, 0, "yes", now_s)
            _look_back(own[LOSS], watch, LOSS, is_bad=wrong[0])
        if now_s < next_s:
            continue
        next_s = now_s + 1.0
        facts = watch.facts(now_s=now_s, frozen_by=Attribution.NONE, is_automation_on=True, last_increase_s=None)
        decision = decide(rollout, watch.findings(), facts)
        if isinstance(decision, Rollback):
            return Cooled(kind, True, watch.worsening is not None, decision.reason)
    return Cooled(kind, False, watch.worsening is not None, "")


def promoted_lines(asked: Asked) -> Iterator[Line]:
    """Yield how often a sound version is taken back after its promotion, and how often one that is to blame."""
    each = asked.of(1, 38, 500)  # a second a run; four kinds of 38 without any keep the 2 %
    made = [(kind, seed) for seed in asked.seeds(each) for kind in KINDS]
    sound = list(asked.pool.map(promoted_version, *zip(*made, strict=True), chunksize=4))
    count, back = len(sound), sum(one.is_rolled_back for one in sound)
    verdict = judged(back <= 0.01 * count, is_sure=upper_limit(back, count) <= 0.02)
    dummy = f"its own past {sum(one.is_alarmed for one in sound) / count:.0%}"
    yield Line("promoted, then worse for both", "≤ 1%, surely ≤ 2%", share_text(back, count), dummy, verdict)
    for one in sound:
        if one.is_rolled_back:
            yield Line(f"rolled back: {one.kind}", "", one.reason)
    harmed = list(asked.pool.map(promoted_version, *zip(*made, strict=True), [1.0] * len(made), chunksize=4))
    found = share_text(sum(one.is_rolled_back for one in harmed), count)
    yield Line("promoted, then worse alone", "", found, f"its own past {sum(one.is_alarmed for one in harmed) / count:.0%}")


def _promoted(salt: str) -> Rollout:
    rollout, route = started(salt, Plan())
    promoted, _ = apply_event(rollout, route, Event.PROMOTE, reason="a person", now_s=0.0)
    assert promoted.is_cooling
    return promoted


def _version(name: str) -> Version:
    return Version(
        model="delays",
        version=name,
        digest=Digest(name * 64),
        size_bytes=1,
        runtime=Runtime.ONNX,
        runtime_version="1",
        signature=Signature((), ()),
        target=_TARGET,
    )


def _look_back(own: OutcomeWatch, watch: RolloutWatch, outcome: str, *, is_bad: bool) -> None:
    if why := own.observe(float(is_bad)):
        watch.worsen("2", Worsening(outcome, why))


def _live(id: str, key: str, *, is_fault: bool, is_wrong: bool) -> PredictionRecord:
    """Return an answer of the promoted version; whatever is right is yes."""
    outcome = Outcome.FAILED if is_fault else Outcome.OK
    return replace(
        TEMPLATE,
        prediction_id=id,
        version="2",
        attempts=(Attempt(CHAMPION, "2", outcome, 400),),
        assignment_key=key,
        outputs=() if is_fault else (_ANSWERS[is_wrong],),
        outcome=outcome,
    )


def _copy(live: PredictionRecord, *, is_fault: bool, is_wrong: bool) -> PredictionRecord:
    """Return what the version before makes of the same request."""
    outcome = Outcome.FAILED if is_fault else Outcome.OK
    return replace(
        live,
        prediction_id=f"{live.prediction_id}-copy",
        kind=Kind.SHADOW,
        assigned=PREVIOUS,
        variant=PREVIOUS,
        version="1",
        attempts=(Attempt(PREVIOUS, "1", outcome, 400),),
        outputs=() if is_fault else (_ANSWERS[is_wrong],),
        outcome=outcome,
        shadow_of=live.prediction_id,
    )
