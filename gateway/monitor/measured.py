"""What one record, one outcome that became known, or one pair of answers contributes to each measure.

A guardrail is turned once into functions of what it needs, so that a record costs nothing for what no guardrail asks. Each
returns nothing where it cannot say anything. Of a request with several rows, segments and expressions are those of the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from gateway.core.evidence.segments import segment_name
from gateway.core.expressions import FEATURE, Expression, Value, compiled
from gateway.core.guardrails import Guardrail, Measure, Of, Options, own_attempt
from gateway.core.losses import Truth, confidence, decided, loss
from gateway.core.models import ColumnKind, Version
from gateway.core.profile_bodies import profile_from_body
from gateway.core.profiles import FeatureMap, FeatureProfile
from gateway.core.records import FAULTS, Attempt, Outcome, PredictionRecord
from gateway.core.tensors import Tensor
from gateway.monitor.rows import Features, answer_column, answer_tensor, feature_values, hidden_names, joined_columns, thinned

LENGTH_MAX: Final = 200  # characters of a segment's name
VersionOf = Callable[[str], Version | None]  # of the rollout's model, by name; None for one that is not registered any more


@dataclass(slots=True)
class Contribution:
    """What enters the evidence; see `core/evidence/plan.py` for what the fields of an outcome mean by kind.

    Never changed; not frozen, because every record makes some, and freezing triples what that costs.
    """

    value: float
    beside: float = 0.0
    segment: str = ""


class Kept(NamedTuple):
    """What must be remembered of a prediction until its truth is known, because it is in the request.

    A tuple, because a hundred thousand of them are saved with each checkpoint, in a fifth of the time of a dataclass.
    """

    segment: str = ""
    values: tuple[tuple[str, Value], ...] = ()


@dataclass(slots=True)
class Known:
    """One row of an answer and the truth of it. Never changed; not frozen, as above."""

    version: Version
    answer: Tensor
    row: int
    truth: Truth
    loss: float
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of both variants to one request, an output each, with as many rows."""

    champion: Tensor
    challenger: Tensor
    rows: int


OnRecord = Callable[[PredictionRecord], Contribution | None]
OnKnown = Callable[[Known], Contribution | None]
OnPair = Callable[[Pair], Contribution | None]
OnPairKnown = Callable[[Pair, int, Truth], Contribution | None]


def on_record(rail: Guardrail, champion: str, version_of: VersionOf) -> OnRecord | None:
    """Return what a live record contributes to a guardrail; None when records contribute nothing but a fault, or nothing at all.

    Args:
        champion: Its version, whose reference says what inputs should look like.
    """
    options = rail.options
    match rail.measure:
        case Measure.LATENCY:
            return _latency
        case Measure.INVALID_OUTPUTS:
            return lambda record: _invalid_outputs(record, options, version_of)
        case Measure.OUTPUTS:
            return lambda record: _outputs(record, options, version_of)
        case Measure.FAIRNESS if options.of is not Of.LOSS:
            return lambda record: _fairness(record, options, version_of)
        case Measure.DATA_QUALITY:
            return _Quality(options.column, champion, version_of).of
        case Measure.EXPRESSION:
            expression = compiled(options.expression, rail.name)
            return None if expression.is_late else lambda record: _expression(record, expression, options, version_of)
        case _:
            return None


def kept_of(rail: Guardrail, version_of: VersionOf) -> Callable[[PredictionRecord], Kept | None] | None:
    """Return what a guardrail needs to remember of a record until its truth is known; None when that is nothing."""
    if rail.measure is Measure.FAIRNESS and rail.options.of is Of.LOSS:
        return lambda record: None if (name := _segment(record, rail.options.column, version_of)) is None else Kept(segment=name)
    if rail.measure is Measure.EXPRESSION:
        expression = compiled(rail.options.expression, rail.name)
        asked = sorted(name for name in expression.names if name.startswith(FEATURE) or name in ("rows", "latency_ms", "error"))
        if expression.is_late and asked:
            return lambda record: Kept(values=tuple((name, _named(record, name, version_of)) for name in asked))
    return None


def on_known(rail: Guardrail) -> OnKnown | None:
    """Return what a known outcome contributes to a guardrail beside the loss itself; None when it contributes nothing."""
    match rail.measure:
        case Measure.CALIBRATION:
            return _calibration
        case Measure.FAIRNESS if rail.options.of is Of.LOSS:
            return lambda known: None if known.kept is None or known.row else Contribution(known.loss, segment=known.kept.segment)
        case Measure.EXPRESSION:
            expression = compiled(rail.options.expression, rail.name)
            return (lambda known: _late_expression(known, expression, rail.options)) if expression.is_late else None
        case _:
            return None


def on_pair(rail: Guardrail, champion: str, challenger: str, version_of: VersionOf) -> OnPair | None:
    """Return what two answers to one request contribute to a guardrail; None when they contribute nothing."""
    if rail.measure is not Measure.DISAGREEMENT:
        return None
    return lambda pair: _disagreement(pair, rail.options, version_of(champion), version_of(challenger))


def on_pair_known(rail: Guardrail, champion: str, challenger: str, version_of: VersionOf) -> OnPairKnown | None:
    """Return what two answers and the truth contribute to a guardrail; None when they contribute nothing."""
    if rail.measure is not Measure.SHADOW_LOSS:
        return None
    return lambda pair, row, truth: _shadow_loss(pair, row, truth, version_of(champion), version_of(challenger))


def _own(record: PredictionRecord) -> Attempt | None:
    """Return the assigned variant's own attempt, unless the caller gave it up."""
    own = own_attempt(record)
    return None if own is None or own.outcome is Outcome.ABANDONED else own


def _latency(record: PredictionRecord) -> Contribution | None:
    own = _own(record)
    return None if own is None else Contribution(own.duration_us / 1_000.0)


def _invalid_outputs(record: PredictionRecord, options: Options, version_of: VersionOf) -> Contribution | None:
    """Return 1 for an answer that is no number or out of range; an attempt that failed otherwise gave no invalid answer."""
    own = _own(record)
    if own is None or own.outcome in FAULTS:
        return None if own is None else Contribution(float(own.outcome is Outcome.INVALID))
    version = version_of(own.version)
    answer = answer_tensor(version.target, record.outputs) if version is not None else None
    if answer is None or answer.data.dtype.kind not in "fiu":
        return None
    low = -np.inf if options.low is None else options.low
    high = np.inf if options.high is None else options.high
    values = answer.data.astype(np.float64)
    is_valid = np.isfinite(values) & (values >= low) & (values <= high)
    return Contribution(float(not is_valid.all()))


def _outputs(record: PredictionRecord, options: Options, version_of: VersionOf) -> Contribution | None:
    """Return the mean answer of a request: in its units, or in [0, 1] of the declared range."""
    own = _own(record)
    if own is None or own.outcome is not Outcome.OK:
        return None
    answer = answer_column(version_of(own.version), record.outputs)
    if answer is None or answer[0].kind is not ColumnKind.NUMERIC:
        return None
    values = answer[1].astype(np.float64)
    if options.low is not None and options.high is not None:
        values = (values.clip(options.low, options.high) - options.low) / (options.high - options.low)
    mean = float(values.mean())
    return Contribution(mean) if np.isfinite(mean) else None


def _fairness(record: PredictionRecord, options: Options, version_of: VersionOf) -> Contribution | None:
    segment, own = _segment(record, options.column, version_of), _own(record)
    if segment is None or own is None:
        return None
    if options.of is Of.ERRORS:
        return Contribution(float(own.outcome in FAULTS), segment=segment)
    version = version_of(own.version)
    if own.outcome is not Outcome.OK or version is None:
        return None
    said = decided(version.target, record.outputs, 0)
    positive = version.target.positive or (version.target.labels or ("0", "1"))[-1]
    return None if said is None else Contribution(float(said == positive), segment=segment)


def _calibration(known: Known) -> Contribution | None:
    stated = confidence(known.version.target, (known.answer,), known.row, known.truth)
    return None if stated is None else Contribution(stated[0], beside=stated[1])


class _Quality:
    """Whether a value of a request is missing, infinite, unseen, or out of the range of the champion's reference."""

    def __init__(self, column: str, champion: str, version_of: VersionOf) -> None:
        self._column = column
        self._champion = champion
        self._version_of = version_of
        self._limits: _Limits | None = None
        self._hidden: tuple[str, ...] = ()

    def of(self, record: PredictionRecord) -> Contribution | None:
        """Return 1 for a request that has such a value, else 0; None without a reference, or without such columns."""
        version = self._version_of(self._champion)
        if own_attempt(record) is None or version is None or version.profile is None:
            return None
        hidden = hidden_names(record)
        features = feature_values(version.columns, record.inputs, hidden=hidden)
        if features is None:
            return None
        if self._limits is None or hidden != self._hidden:
            known = [one for one in profile_from_body(version.profile).features if one.name not in hidden]
            self._limits, self._hidden = _Limits(known, self._column), hidden
        return None if self._limits.are_none else Contribution(float(self._limits.are_broken_by(features)))


class _Limits:
    """What the reference has of some features: numbers within a range, categories. Ranges cost a tenth of a whole placing."""

    def __init__(self, features: Sequence[FeatureProfile], column: str) -> None:
        wanted = [(at, feature) for at, feature in enumerate(features) if column in ("", feature.name)]
        numeric = [(at, feature.quantiles or (np.inf, -np.inf)) for at, feature in wanted if feature.kind is ColumnKind.NUMERIC]
        self._numeric = [at for at, _ in numeric]
        self._low = np.asarray([quantiles[0] for _, quantiles in numeric])
        self._high = np.asarray([quantiles[-1] for _, quantiles in numeric])
        self._categorical = [at for at, feature in wanted if feature.kind is ColumnKind.CATEGORICAL]
        self._map = FeatureMap([features[at] for at in self._categorical])

    @property
    def are_none(self) -> bool:
        """Whether there is no such feature."""
        return not self._numeric and not self._categorical

    def are_broken_by(self, features: Features) -> bool:
        """Return whether any value is none of those; text where a number belongs is not."""
        if self._numeric:
            try:
                if isinstance(features, list):
                    values = np.stack([features[at].astype(np.float64) for at in self._numeric], axis=1)
                else:
                    values = features[:, self._numeric].astype(np.float64)
            except (TypeError, ValueError):
                return True
            if not ((values >= self._low) & (values <= self._high)).all():
                return True
        columns = joined_columns([features]) if self._categorical else ()
        return any(one.is_apart.any() for one in self._map.place([columns[at] for at in self._categorical]))


def _disagreement(pair: Pair, options: Options, champion: Version | None, challenger: Version | None) -> Contribution | None:
    """Return the share of the request's rows that the two answer differently, of a wide one in the rows that are looked at."""
    if champion is None or challenger is None:
        return None
    differing, rows = 0, range(pair.rows)[thinned(pair.rows)]
    for row in rows:
        one = decided(champion.target, (pair.champion,), row)
        other = decided(challenger.target, (pair.challenger,), row)
        if one is None or other is None:
            return None
        is_near = isinstance(one, float) and isinstance(other, float) and abs(one - other) <= options.tolerance
        differing += one != other and not is_near
    return Contribution(differing / len(rows)) if rows else None


def _shadow_loss(pair: Pair, row: int, truth: Truth, champion: Version | None, challenger: Version | None) -> Contribution | None:
    if champion is None or challenger is None:
        return None
    beside = loss(champion.target, (pair.champion,), row, truth)
    value = loss(challenger.target, (pair.challenger,), row, truth)
    return None if beside is None or value is None else Contribution(value, beside=beside)


def _expression(record: PredictionRecord, expression: Expression, options: Options, version_of: VersionOf) -> Contribution | None:
    own = _own(record)
    if own is None:
        return None
    return _in_range(expression.value(lambda name: _named(record, name, version_of)), options)


def _late_expression(known: Known, expression: Expression, options: Options) -> Contribution | None:
    if known.row:
        return None
    values = dict(known.kept.values) if known.kept is not None else {}
    values |= {"loss": known.loss, "truth": _value(known.truth), "answer": _answer(known.version, (known.answer,))}
    return _in_range(expression.value(values.get), options)


def _in_range(value: float | None, options: Options) -> Contribution | None:
    """Return a value clipped to its stated range, as a part of it."""
    assert options.low is not None, "an expression states its range"
    assert options.high is not None, "an expression states its range"
    if value is None:
        return None
    return Contribution((min(max(value, options.low), options.high) - options.low) / (options.high - options.low))


def _named(record: PredictionRecord, name: str, version_of: VersionOf) -> Value:
    """Return what a name of an expression stands for in a record; None where it has no value."""
    own = _own(record)
    if own is None:
        return None
    if name.startswith(FEATURE):
        column = name.removeprefix(FEATURE)
        is_hash = column in record.hashed or any(tensor.name in record.hashed for tensor in record.inputs[:1])
        return None if is_hash else _feature(record, column, version_of)
    match name:
        case "error":
            return float(own.outcome in FAULTS)
        case "latency_ms":
            return own.duration_us / 1_000.0
        case "rows":
            return float(record.inputs[0].data.shape[0]) if record.inputs and record.inputs[0].data.ndim else None
        case "answer" if own.outcome is Outcome.OK:
            version = version_of(own.version)
            return None if version is None else _answer(version, record.outputs)
        case _:
            return None


def _answer(version: Version, outputs: tuple[Tensor, ...]) -> Value:
    """Return the first row's answer: its number, the probability of a pair's last label, or the class that it comes to."""
    answer = answer_column(version, outputs)
    if answer is None:
        return None
    column, values = answer
    return decided(version.target, outputs, 0) if column.kind is ColumnKind.CATEGORICAL else _value(values[0])


def _feature(record: PredictionRecord, column: str, version_of: VersionOf) -> Value:
    """Return the first row's value of a column of the version that answered, or the hash that the log has of it."""
    version = version_of(record.version)
    if version is None:
        return None
    known = [one.name for one in version.columns if one.name not in record.dropped]
    features = feature_values(version.columns, record.inputs, hidden=record.dropped) if column in known else None
    if features is None or not len(features):
        return None
    at = known.index(column)
    values = features[at] if isinstance(features, list) else features[:, at]
    return _value(values[0]) if len(values) else None


def _segment(record: PredictionRecord, column: str, version_of: VersionOf) -> str | None:
    """Return the first row's value of a column as text; None without one."""
    match _feature(record, column, version_of):
        case str() as name:
            return name[:LENGTH_MAX]
        case float() as number if math.isfinite(number):
            return segment_name(number)
        case _:
            return None


def _value(value: object) -> Value:
    plain = value.item() if isinstance(value, np.generic) else value
    match plain:
        case bytes():
            return plain.decode("utf-8", "replace")
        case str():
            return plain
        case bool() | int() | float():
            return float(plain)
        case _:
            return None
