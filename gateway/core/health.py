"""How a route is: the worst of its parts, each with the evidence that it rests on.

Nothing is averaged: one critical part makes a critical route, however well the others are. What is not known is neither good nor
bad, and says why it is not known. Pure; the facts are the monitor's last picture, what the workers counted, and the registry.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.fields import Json
from gateway.core.rollouts import RolloutState
from gateway.core.troubles import LAG_S, SILENT_S

AGE_MAX_S: Final = SILENT_S + LAG_S  # of what is judged: so old it may be before anybody complains of the monitor
PREDICTIONS_MIN: Final = 30  # of a version, in the hour; of fewer, one failure would be a large share
FAULTS_MIN: Final = 3  # two failures are chance
ERRORS_WARNING: Final = 0.001  # the objective of the alerts
ERRORS_CRITICAL: Final = 0.01  # ten times it
TRUTHS_MIN: Final = 50  # rows with ground truth before two versions' losses are compared
SLOWER_WARNING: Final = 2.0  # times the route's fastest version: callers of one wait twice as long as those of the other
DEADLINE_WARNING: Final = 0.5  # of the route's deadline, by a mean: the tail is beyond it
NOTICED: Final = 0.01  # of the deadline: whoever waits 5 s does not notice whether it took 2 ms or 5
REASON_LENGTH_MAX: Final = 200  # of why a version does not load; the worker's journal has all of it
LOSS_MARGIN: Final = 0.10  # the guardrail's: what so few rows can show
TOLD_S: Final = 86_400.0  # after a rollback by the gateway; a route that is always amber is looked at by nobody


class Level(enum.Enum):
    """How a part or a route is, from best to worst in this order; the value is what the metric shows."""

    GOOD = 1
    UNKNOWN = 0
    WARNING = 2
    CRITICAL = 3


_WORSE: Final = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What one live version of a route did in the last hour; None where nothing is known.

    Attributes:
        latency_ms: Mean time of its tries, of which each is one prediction.
        truths: Rows whose ground truth came.
    """

    version: str
    predictions: int = 0
    error_rate: float | None = None
    latency_ms: float | None = None
    truths: int = 0
    mean_loss: float | None = None


@dataclass(frozen=True, slots=True)
class RefusalFacts:
    """What the workers counted of a route's live requests in the last minutes.

    A refusal has no record, so the monitor does not see it; only those are meant for which the gateway itself is to blame.

    Attributes:
        span_s: How far back the counts go.
        requests: Predictions, and the refusals that came before one.
        reasons: Refusals by the error's name, the most frequent first.
    """

    span_s: float
    requests: int
    reasons: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ColdFacts:
    """A live version that workers should hold warm and could not load, and why."""

    version: str
    workers: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class DriftFacts:
    """How the live version's inputs lie against its training sample, and what else of it moved.

    Attributes:
        rows: That the index of the feature with the fewest rests on; 0 while one was not judged.
        over: Features whose index is over its bound, the furthest first.
        departed: What is unlike its reference: inputs, summaries, answer, errors, loss.
        incidents: Why each open one began, the newest last.
    """

    rows: int
    features: int
    over: tuple[str, ...] = ()
    departed: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """The route's newest rollout.

    Attributes:
        failed: Guardrails that failed.
        changed_s: How long it has been in its state.
    """

    state: RolloutState
    reason: str = ""
    failed: tuple[str, ...] = ()
    changed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """What is known of a route.

    Attributes:
        age_s: How long ago the newest record was that the monitor speaks of; None when it never spoke.
        deadline_ms: How long callers wait.
        refusals: None when no request was counted in the last minutes.
        cold: Versions that are not loaded; the fallback answers for them, or nobody does.
        drift: None when the live version has no training sample, or nothing was compared with it yet.
        rollout: None when there never was one.
    """

    age_s: float | None
    deadline_ms: float
    versions: tuple[VersionFacts, ...] = ()
    refusals: RefusalFacts | None = None
    cold: tuple[ColdFacts, ...] = ()
    drift: DriftFacts | None = None
    rollout: RolloutFacts | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a route's health, and the sentence with the numbers that say so."""

    name: str
    level: Level
    evidence: str


@dataclass(frozen=True, slots=True)
class Health:
    """A route's health; `level` is that of its worst part."""

    parts: tuple[Part, ...]

    @property
    def level(self) -> Level:
        """The worst part's level."""
        return worst(part.level for part in self.parts)

    def body(self) -> Json:
        """Return the health as the admin API shows it."""
        parts = sorted(self.parts, key=lambda part: _WORSE[part.level], reverse=True)
        return {
            "level": self.level.name.lower(),
            "parts": [{"part": part.name, "level": part.level.name.lower(), "evidence": part.evidence} for part in parts],
        }


def worst(levels: Iterable[Level]) -> Level:
    """Return the worst level; of nothing, that it is unknown."""
    return max(levels, key=_WORSE.__getitem__, default=Level.UNKNOWN)


def health(facts: RouteFacts) -> Health:
    """Return a route's health, part by part."""
    rollout = Part("rollout", *_rollout(facts.rollout))
    if facts.age_s is None or facts.age_s > AGE_MAX_S:
        why = "the monitor has said nothing" + (f" of the last {facts.age_s:.0f} s" if facts.age_s is not None else "")
        errors = Part("errors", *_worst_first((Level.UNKNOWN, why), facts))
        return Health((errors, *(Part(name, Level.UNKNOWN, why) for name in ("latency", "drift", "quality")), rollout))
    return Health(
        (
            Part("errors", *_worst_first(_errors(facts.versions), facts)),
            Part("latency", *_latency(facts.versions, facts.deadline_ms)),
            Part("drift", *_drift(facts.drift)),
            Part("quality", *_quality(facts.versions)),
            rollout,
        )
    )


_Judged = tuple[Level, str]


def _errors(versions: Sequence[VersionFacts]) -> _Judged:
    """Judge each version by itself: a small challenger that always fails must not vanish in the champion's traffic."""
    judged = [_errors_of(version) for version in versions]
    return max(judged, key=lambda one: _WORSE[one[0]], default=(Level.UNKNOWN, "no prediction in the last hour"))


def _errors_of(facts: VersionFacts) -> _Judged:
    if facts.predictions < PREDICTIONS_MIN or facts.error_rate is None:
        return Level.UNKNOWN, f"version {facts.version}: {facts.predictions} predictions in the last hour are too few to say"
    faults = round(facts.error_rate * facts.predictions)
    evidence = f"version {facts.version}: {faults:,} of {facts.predictions:,} predictions failed in the last hour"
    return _failing(faults, facts.error_rate), evidence


def _worst_first(judged: _Judged, facts: RouteFacts) -> _Judged:
    """Join what the workers refused and could not load to what the monitor saw: the worst decides, and comes first."""
    found = [*_refused(facts.refusals), *map(_not_loaded, facts.cold), judged]
    found.sort(key=lambda one: _WORSE[one[0]], reverse=True)
    return found[0][0], "; ".join(evidence for _, evidence in found)


def _refused(facts: RefusalFacts | None) -> Iterator[_Judged]:
    if facts is not None and facts.reasons:
        count = sum(refused for _, refused in facts.reasons)
        reasons = ", ".join(f"{reason} {refused:,}" for reason, refused in facts.reasons)
        evidence = f"the gateway refused {count:,} of {facts.requests:,} requests of the last {facts.span_s:.0f} s: {reasons}"
        yield _failing(count, count / max(facts.requests, count)), evidence


def _not_loaded(facts: ColdFacts) -> _Judged:
    """Warn before anybody is refused: whoever is assigned to the version gets the fallback's answer, or none."""
    return (
        Level.WARNING,
        f"version {facts.version} is not loaded on {', '.join(facts.workers)}: {facts.reason[:REASON_LENGTH_MAX]}",
    )


def _failing(faults: int, share: float) -> Level:
    if faults < FAULTS_MIN or share < ERRORS_WARNING:
        return Level.GOOD
    return Level.CRITICAL if share >= ERRORS_CRITICAL else Level.WARNING


def _latency(versions: Sequence[VersionFacts], deadline_ms: float) -> _Judged:
    """Judge by what callers wait for at most, and one version by another: what else is slow is for the route's owner to say."""
    known = [(one.latency_ms, one) for one in versions if one.latency_ms is not None and one.predictions >= PREDICTIONS_MIN]
    if not known:
        return Level.UNKNOWN, "too few predictions in the last hour to say"
    rare = ", ".join(one.version for one in versions if one.latency_ms is None or one.predictions < PREDICTIONS_MIN)
    known.sort(key=lambda one: one[0])
    (least_ms, fast), (most_ms, slow) = known[0], known[-1]
    evidence = "; ".join(f"version {one.version}: {ms:.3g} ms a prediction" for ms, one in known)
    if most_ms > DEADLINE_WARNING * deadline_ms:
        return Level.WARNING, f"version {slow.version} takes over half of the {deadline_ms:.0f} ms that callers wait: {evidence}"
    if most_ms > SLOWER_WARNING * least_ms and most_ms > NOTICED * deadline_ms:
        return Level.WARNING, f"version {slow.version} is {most_ms / least_ms:.1f} times as slow as {fast.version}: {evidence}"
    if rare:
        return Level.UNKNOWN, f"too few predictions of version {rare} in the last hour to say: {evidence}"
    alone = "; within the deadline, and no other version to compare with" if len(known) == 1 else ""
    return Level.GOOD, f"{evidence}{alone}"


def _drift(facts: DriftFacts | None) -> _Judged:
    if moved := "; ".join(_moved(facts)) if facts is not None else "":
        return Level.WARNING, moved
    if facts is None or not facts.features:
        return Level.UNKNOWN, "nothing is compared with a training sample"
    if facts.rows == 0:
        return Level.UNKNOWN, "too few rows were compared with the training sample yet"
    return Level.GOOD, f"none of {facts.features} features drifted over the last {facts.rows:,} rows"


def _moved(facts: DriftFacts) -> Iterator[str]:
    """Yield what each watch says: one may be sure of what another has not looked at yet, or takes for normal by now."""
    if facts.over:
        yield f"{len(facts.over)} of {facts.features} features drifted: {', '.join(facts.over[:5])}"
    if facts.incidents:
        yield f"drift incidents open: {len(facts.incidents)}, the newest {facts.incidents[-1]}"
    if facts.departed:
        yield f"unlike the reference still: {', '.join(facts.departed)}"


def _quality(versions: Sequence[VersionFacts]) -> _Judged:
    """Judge one version by another of the same hour; a loss alone is neither good nor bad: what can be reached differs."""
    known = [(one.mean_loss, one) for one in versions if one.mean_loss is not None and one.truths >= TRUTHS_MIN]
    if not known:
        truths = sum(one.truths for one in versions)
        return Level.UNKNOWN, f"{truths} outcomes came in the last hour, too few to say"
    known.sort(key=lambda one: one[0])
    (least, best), (most, bad) = known[0], known[-1]
    evidence = "; ".join(f"version {one.version}: mean loss {loss:.3g} over {one.truths:,} outcomes" for loss, one in known)
    if most - least > LOSS_MARGIN:
        return Level.WARNING, f"version {bad.version} is worse than version {best.version}: {evidence}"
    if rare := ", ".join(one.version for one in versions if one.mean_loss is None or one.truths < TRUTHS_MIN):
        return Level.UNKNOWN, f"too few outcomes of version {rare} came in the last hour to compare with {evidence}"
    if len(known) == 1:
        return Level.UNKNOWN, f"there is no other version to compare with {evidence}"
    return Level.GOOD, evidence


def _rollout(facts: RolloutFacts | None) -> _Judged:
    match facts:
        case None:
            return Level.GOOD, "there was no rollout"
        case RolloutFacts(failed=failed) if failed and facts.state in _BOTH_ANSWER:
            return Level.CRITICAL, f"a challenger that failed still answers: {', '.join(failed)}"
        case RolloutFacts(RolloutState.HELD, reason):
            return Level.WARNING, f"the rollout is held: {reason}"
        case RolloutFacts(RolloutState.QUARANTINED, reason):
            level = Level.WARNING if facts.changed_s < TOLD_S else Level.GOOD
            return level, f"the last rollout was rolled back by the gateway {_ago(facts.changed_s)}: {reason}"
    return Level.GOOD, f"the last rollout is {facts.state.value}"


def _ago(seconds: float) -> str:
    hours = int(max(0.0, seconds) // 3_600)
    return f"{hours // 24} days ago" if hours >= 48 else f"{hours} hours ago" if hours >= 2 else "just now"


_BOTH_ANSWER: Final = frozenset({RolloutState.CANARY, RolloutState.HELD, RolloutState.BAKING, RolloutState.AWAITING_APPROVAL})
