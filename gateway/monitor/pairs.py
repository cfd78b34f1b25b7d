"""Joins a shadow's answers to the live answers they copy: both variants on the same request.

A live answer waits for its copy, and a pair for its truth where a guardrail wants that; both bounded, the oldest dropped first.
A copy that never came, or whose truth never came, says nothing.
"""

from __future__ import annotations

from typing import Final, cast

from gateway.core.fields import Json
from gateway.core.records import Kind, Outcome, PredictionRecord
from gateway.core.rollouts import Rollout
from gateway.core.tensors import Array, Datatype, Tensor
from gateway.monitor.measured import Pair, VersionOf
from gateway.monitor.rows import answer_tensor, row_count

LIVE_MAX: Final = 10_000  # answers that wait for their copy: some seconds, and a share of 10 % of shadows leaves nine of ten
PAIRS_MAX: Final = 100_000  # that wait for their truth
_Answer = tuple[Datatype, Array]  # plain tuples are saved with a checkpoint in a fifth of the time of tensors


class Pairs:
    """The pairs of one rollout's two versions. Not shared between threads."""

    def __init__(self, rollout: Rollout, version_of: VersionOf, *, keeps: bool) -> None:
        self._champion, self._challenger = rollout.champion, rollout.challenger
        self._version_of = version_of
        self._keeps = keeps
        self._live: dict[str, tuple[str, _Answer]] = {}  # by prediction id: version and answer
        self._pairs: dict[
            str, tuple[str, int, _Answer, _Answer]
        ] = {}  # by the live one's id: key, rows, champion's, challenger's

    def observe(self, record: PredictionRecord) -> Pair | None:
        """Take a live answer or a copy, in the log's order, and return the pair that a copy makes."""
        if record.outcome is not Outcome.OK or record.version not in (self._champion, self._challenger):
            return None
        version = self._version_of(record.version)
        tensor = answer_tensor(version.target, record.outputs) if version is not None else None
        if tensor is None:
            return None
        answer = (tensor.datatype, tensor.data)
        if record.kind is Kind.LIVE:
            self._live[record.prediction_id] = (record.version, answer)
            if len(self._live) > LIVE_MAX:
                del self._live[next(iter(self._live))]
            return None
        live = self._live.get(record.shadow_of)
        if record.kind is not Kind.SHADOW or live is None or live[0] == record.version:
            return None
        del self._live[record.shadow_of]
        rows = row_count(record)
        champion, challenger = (answer, live[1]) if record.version == self._champion else (live[1], answer)
        if self._keeps:
            self._pairs[record.shadow_of] = (record.assignment_key, rows, champion, challenger)
            if len(self._pairs) > PAIRS_MAX:
                del self._pairs[next(iter(self._pairs))]
        return self._pair(rows, champion, challenger)

    def known(self, prediction_id: str) -> tuple[str, Pair] | None:
        """Return the key and the pair of a live prediction of which a row's truth is known now; one of several rows stays."""
        found = self._pairs.get(prediction_id)
        if found is None:
            return None
        key, rows, champion, challenger = found
        if rows == 1:
            del self._pairs[prediction_id]
        return key, self._pair(rows, champion, challenger)

    def _pair(self, rows: int, champion: _Answer, challenger: _Answer) -> Pair:
        return Pair(self._tensor(self._champion, champion), self._tensor(self._challenger, challenger), rows)

    def _tensor(self, name: str, answer: _Answer) -> Tensor:
        version = self._version_of(name)
        return Tensor(version.target.output if version is not None else "", *answer)

    def state(self) -> Json:
        """Return everything needed to go on exactly."""
        return {"live": dict(self._live), "pairs": dict(self._pairs)}

    def restore(self, state: Json) -> None:
        """Go on from what `state` returned."""
        self._live = cast("dict[str, tuple[str, _Answer]]", state["live"])
        self._pairs = cast("dict[str, tuple[str, int, _Answer, _Answer]]", state["pairs"])
