"""Watches one version's features, answers, errors and losses on one route for drift, with one false-alarm budget for all.

Features are compared with the reference profile; answers, summaries, errors and losses, of which training says nothing, with the
version's own first ones. Rows are taken a batch at a time, which ends by rows or by the log's time, so that the same log gives
the same alarms. Folds records; no I/O of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar, cast

import numpy as np

from gateway.core.attribution import Attribution
from gateway.core.drift import Alarm, Incident, with_alarm
from gateway.core.fields import Json
from gateway.core.models import Column, ColumnKind, Version
from gateway.core.outcomes import OutcomeWatch
from gateway.core.profile_bodies import profile_from_body
from gateway.core.profiles import ReferenceProfile, cell_names
from gateway.core.records import PredictionRecord
from gateway.core.summaries import summarised
from gateway.core.tensors import Array, FloatArray, Tensor
from gateway.monitor.columns import WINDOW_ROWS, Budget, ColumnsWatch, FeatureReading, LearnedWatch, Moved
from gateway.monitor.rows import (
    ANSWER,
    RECORD_ROWS_MAX,
    Features,
    answer_column,
    feature_values,
    hidden_names,
    joined_columns,
    thinned,
)
from gateway.ports.readings import Detector

BATCH_ROWS: Final = 32  # a shift by σ is found after some forty rows, so a batch may not be many more
BATCH_SHORT_S: Final = 0.05  # …unless they come faster than anybody acts: what a batch costs beside its rows is then shared by
BATCH_ROWS_MAX: Final = 256  # more of them, 5,000 a second. Of the log's time
BATCH_S: Final = 1.0  # of the log's time; a quiet route is not kept waiting for 32 rows
INPUTS_SHARE: Final = 0.3  # of the false-alarm budget…
SUMMARIES_SHARE: Final = 0.1
ANSWER_SHARE: Final = 0.1
OUTCOME_SHARE: Final = 0.05  # …of errors and of losses each; what is left is for the indices and the detectors of recent change
PSI_SHARE: Final = 0.2
ANSWERS_SHOWN: Final = 9  # a scrape of a thousand routes has room for ten series of each
OUTCOMES: Final = ("errors", "loss")
_Rows = TypeVar("_Rows", bound=Array)


def budget_of(alarm_rows: float, share: float, features: int) -> Budget:
    """Return what a share of the columns may cost of one false alarm in so many rows of the whole version."""
    return Budget(alarm_rows / share, PSI_SHARE * WINDOW_ROWS / alarm_rows / (1 + features))


@dataclass(slots=True)
class _Batch:
    """Rows that wait to be mapped together."""

    since_s: float = 0.0
    rows: int = 0
    features: list[Features] = field(default_factory=list)  # of each record
    answers: list[Array] = field(default_factory=list)
    summaries: list[list[FloatArray]] = field(default_factory=list)


class DriftWatch:
    """One version on one route.

    Attributes:
        version: Its name.
        incidents: Alarms, merged; the newest last.
        incident_count: How many incidents there ever were.
        unreadable: Records whose inputs do not have the version's columns.
        inputs: Its features; None without a reference profile.
        answer, summaries: Of which training says nothing.
        outcomes: By name, `errors` and `loss`.
    """

    def __init__(self, version: Version, detector: Callable[[int], Detector], *, false_alarm_events: float) -> None:
        self.version = version.version
        self._known = version
        self._detector = detector
        self._alarm_rows = false_alarm_events
        self._profile = profile_from_body(version.profile) if version.profile else ReferenceProfile(0, ())
        self._batch = _Batch()
        self._leave_out((), ())
        self.answer = LearnedWatch(partial(self._watch, share=ANSWER_SHARE))
        self.outcomes = {name: OutcomeWatch(alarm_rows=false_alarm_events / OUTCOME_SHARE) for name in OUTCOMES}
        self._answer_column = Column(ANSWER)
        self.incidents: tuple[Incident, ...] = ()
        self.incident_count = 0
        self.unreadable = 0

    def observe(self, record: PredictionRecord, time_s: float) -> int | None:
        """Take a live answer of the version, and return how many incidents an alarm began; None without an alarm."""
        hidden = self._hidden
        if (record.dropped or record.hashed or hidden) and (hidden := hidden_names(record)) != self._hidden:
            self._leave_out(hidden, [tensor.name for tensor in record.inputs])
        answer = answer_column(self._known, record.outputs)
        batch = self._batch
        if not batch.rows:
            batch.since_s = time_s
        if answer is None:
            batch.rows += 1
        else:
            self._answer_column, answers = answer[0], _few(answer[1])
            batch.rows += len(answers)
            batch.answers.append(answers)
        if self._columns:
            values = feature_values(self._all_columns, record.inputs, hidden=hidden)
            if values is None:
                self.unreadable += 1
            else:
                batch.features.append([_few(column) for column in values] if isinstance(values, list) else _few(values))
        if self._summary_columns:
            summaries = summarised(self._summaries, (*record.inputs, *record.outputs))
            if summaries is None:
                self.unreadable += 1
            else:
                batch.summaries.append([_few(values) for values in summaries])
        return self._fold(time_s) if self._is_full(time_s) else None

    def observe_all(self, records: Sequence[PredictionRecord], times_s: Sequence[float]) -> int:
        """Take several live answers of one row each, alike in form, and return how many incidents their alarms began."""
        if not records:
            return 0
        wide = records[0].inputs[0].data if len(records[0].inputs) == 1 else None
        if self._hidden or self._summary_columns or wide is None or wide.ndim != 2 or wide.shape[1] != len(self._columns):
            return sum(self.observe(record, time_s) or 0 for record, time_s in zip(records, times_s, strict=True))
        begun, at = 0, 0
        while at < len(records):
            if not self._batch.rows:
                self._batch.since_s = times_s[at]
            until = self._until_full(times_s, at)
            self._stack(records[at:until])
            if self._is_full(times_s[until - 1]):
                begun += self._fold(times_s[until - 1]) or 0
            at = until
        return begun

    def _until_full(self, times_s: Sequence[float], at: int) -> int:
        """Return behind which of the rows that come from one on the batch is full, or that there are no more."""
        rows, since_s = self._batch.rows - at, self._batch.since_s
        for until in range(at + 1, len(times_s) + 1):
            if _is_full(rows + until, times_s[until - 1] - since_s):
                return until
        return len(times_s)

    def _is_full(self, time_s: float) -> bool:
        return _is_full(self._batch.rows, time_s - self._batch.since_s)

    def _stack(self, records: Sequence[PredictionRecord]) -> None:
        """Let rows that are alike in form wait as one part of the batch."""
        self._batch.rows += len(records)
        self._batch.features.append(np.concatenate([record.inputs[0].data for record in records]))
        output = records[0].outputs[0]
        stacked = np.concatenate([record.outputs[0].data for record in records])
        answer = answer_column(self._known, (Tensor(output.name, output.datatype, stacked),))
        if answer is not None:
            self._answer_column = answer[0]
            self._batch.answers.append(answer[1])

    def observe_outcome(self, name: str, value: float, time_s: float, *, answered_s: float) -> int | None:
        """Take an error (1, or 0 for none) or a loss in [0, 1], and return what `observe` does.

        Args:
            name: One of `OUTCOMES`.
            answered_s: When the answer was given that it judges.
        """
        why = self.outcomes[name].observe(value, answered_s)
        return self._raise([Moved((name,), Attribution.WORLD, f"{name}: {why}")], time_s) if why else None

    def bodies(self) -> list[Json]:
        """Return every feature as readings show it, the furthest over its bound first."""
        readings = sorted(self.readings(), key=lambda reading: reading.psi / reading.psi_bound, reverse=True)
        return [reading.body() for reading in readings]

    def readings(self) -> list[FeatureReading]:
        """Return where every feature stands, and the answer once enough were seen."""
        return [reading for watch in self._known_watches().values() if watch is not None for reading in watch.readings()]

    def against_training(self) -> Json:
        """Return where the e-detectors stand: of inputs, summaries, answer and outcomes."""
        return {
            **{name: None if watch is None else watch.against_training() for name, watch in self._known_watches().items()},
            **{name: watch.body() for name, watch in self.outcomes.items()},
        }

    def evidence(self) -> dict[str, tuple[float, float]]:
        """Return how far the evidence of each part has come: its log e-value, and the bound from which it is an alarm."""
        found: dict[str, tuple[float, float]] = {}
        for part, body in self.against_training().items():
            log_e = body["log_e"] if isinstance(body, dict) else None
            if isinstance(log_e, float) and isinstance(body, dict):
                found[part] = (log_e, float(body["bound"]))
        return found

    def answers(self) -> dict[str, float]:
        """Return the share of the last answers by range or category: of the `ANSWERS_SHOWN` that are most, and of all `other`."""
        if self.answer.watch is None:
            return {}
        (reading,), (feature,) = self.answer.watch.readings(), self.answer.watch.profile.features
        counts = sorted(zip(reading.current, cell_names(feature), strict=True), reverse=True)
        shares: dict[str, float] = {}
        for at, (count, name) in enumerate(counts):
            if count:
                shown = name if at < ANSWERS_SHOWN else "other"
                shares[shown] = shares.get(shown, 0.0) + count / reading.rows
        return shares

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly, but for the version itself."""
        return {
            "version": self.version,
            "hidden": (self._hidden, self._inputs),
            "inputs": None if self.inputs is None else self.inputs.state(),
            "summaries": self.summaries.state(),
            "answer": self.answer.state(),
            "outcomes": {name: watch.state() for name, watch in self.outcomes.items()},
            "answer_kind": self._answer_column.kind.value,
            "batch": (self._batch.since_s, self._batch.rows, self._batch.features, self._batch.answers, self._batch.summaries),
            "incidents": [incident.body() for incident in self.incidents],
            "incident_count": self.incident_count,
            "unreadable": self.unreadable,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned for the same version."""
        if state["hidden"] != (self._hidden, self._inputs):
            self._leave_out(*state["hidden"])
        if self.inputs is not None:
            self.inputs.restore(state["inputs"])
        self.summaries.restore(state["summaries"])
        self.answer.restore(state["answer"])
        for name, saved in state["outcomes"].items():
            self.outcomes[name].restore(saved)
        self._answer_column = Column(ANSWER, ColumnKind(state["answer_kind"]))
        self._batch = _Batch(*state["batch"])
        self.incidents = tuple(Incident.from_body(body) for body in state["incidents"])
        self.incident_count, self.unreadable = state["incident_count"], state["unreadable"]

    def _leave_out(self, hidden: Sequence[str], inputs: Sequence[str]) -> None:
        """Begin anew with the columns and summaries whose values the log has.

        Args:
            hidden: Names of inputs, or of columns of the one wide input.
            inputs: Names of all inputs.
        """
        self._hidden, self._inputs = tuple(hidden), tuple(inputs)
        wide = inputs[0] if len(inputs) == 1 else None
        features = [one for one in self._profile.features if one.name not in hidden and wide not in hidden]
        torn = {*hidden, *([wide] if hidden else [])}  # a summary of a wide input would be one of the columns that are left
        self._summaries = [summary for summary in self._known.summaries if summary.tensor not in torn]
        self._all_columns = tuple(Column(feature.name, feature.kind) for feature in self._profile.features)
        self._columns = tuple(Column(feature.name, feature.kind) for feature in features)
        self._summary_columns = tuple(Column(summary.name) for summary in self._summaries)
        self.inputs = self._watch(replace(self._profile, features=tuple(features)), share=INPUTS_SHARE) if features else None
        self.summaries = LearnedWatch(partial(self._watch, share=SUMMARIES_SHARE))
        self._batch.features, self._batch.summaries = [], []

    def _known_watches(self) -> dict[str, ColumnsWatch | None]:
        return {"inputs": self.inputs, "summaries": self.summaries.watch, "answer": self.answer.watch}

    def _watch(self, profile: ReferenceProfile, *, share: float) -> ColumnsWatch:
        features = len(self._columns) + len(self._summary_columns)
        return ColumnsWatch(profile, self._detector, budget_of(self._alarm_rows, share, features))

    def _fold(self, time_s: float) -> int | None:
        batch, self._batch = self._batch, _Batch()
        moved: list[Moved] = []
        if batch.features and self.inputs is not None:
            moved += self.inputs.feed(joined_columns(batch.features))
        if batch.summaries:
            values = [np.concatenate(parts) for parts in zip(*batch.summaries, strict=True)]
            moved += self.summaries.feed(self._summary_columns, values)
        if batch.answers:
            moved += self.answer.feed((self._answer_column,), (np.concatenate(batch.answers),))
        return self._raise(moved, time_s)

    def _raise(self, moved: Sequence[Moved], time_s: float) -> int | None:
        before = self.incident_count
        for one in moved:
            self.incidents = with_alarm(self.incidents, Alarm(one.subjects, one.attribution, time_s, one.why))
            self.incident_count += self.incidents[-1].alarms == 1 and self.incidents[-1].why == one.why
        return self.incident_count - before if moved else None


def _is_full(rows: int, span_s: float) -> bool:
    return rows >= BATCH_ROWS_MAX or span_s >= BATCH_S or (rows >= BATCH_ROWS and span_s >= BATCH_SHORT_S)


def _few(values: _Rows) -> _Rows:
    """Return the rows of a record that are looked at."""
    return values if len(values) <= RECORD_ROWS_MAX else cast("_Rows", values[thinned(len(values))])
