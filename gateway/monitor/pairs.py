"""Joins a shadow's answers to the live answers they copy: both variants on the same request.

A live answer waits for its copy, and a pair for its truth where a guardrail wants that; both bounded, the oldest dropped first.
A copy that never came, or whose truth never came, says nothing.
"""

from __future__ import annotations

from typing import Final, cast

from gateway.core.fields import Json
from gateway.core.records import Kind, Outcome, PredictionRecord
from gateway.core.rollouts import Rollout
from gateway.core.tensors import Tensor
from gateway.monitor.measured import Pair, VersionOf
from gateway.monitor.rows import answer_tensor, row_count

LIVE_MAX: Final = 10_000  # answers that wait for their copy: some seconds, and a share of 10 % of shadows leaves nine of ten
PAIRS_MAX: Final = 100_000  # that wait for their truth


class Pairs:
    """The pairs of one rollout's two versions. Not shared between threads."""

    def __init__(self, rollout: Rollout, version_of: VersionOf, *, keeps: bool) -> None:
        self._versions = (rollout.champion, rollout.challenger)
        self._version_of = version_of
        self._keeps = keeps
        self._live: dict[str, tuple[str, Tensor]] = {}  # by prediction id: version and answer
        self._pairs: dict[str, tuple[str, Pair]] = {}  # by the live prediction's id: key and pair

    def observe(self, record: PredictionRecord) -> Pair | None:
        """Take a live answer or a copy, in the log's order, and return the pair that a copy makes."""
        if record.outcome is not Outcome.OK or record.version not in self._versions:
            return None
        version = self._version_of(record.version)
        answer = answer_tensor(version.target, record.outputs) if version is not None else None
        if answer is None:
            return None
        if record.kind is Kind.LIVE:
            self._live[record.prediction_id] = (record.version, answer)
            if len(self._live) > LIVE_MAX:
                del self._live[next(iter(self._live))]
            return None
        live = self._live.get(record.shadow_of)
        if record.kind is not Kind.SHADOW or live is None or live[0] == record.version:
            return None
        del self._live[record.shadow_of]
        is_champion = record.version == self._versions[0]
        pair = Pair(answer, live[1], row_count(record)) if is_champion else Pair(live[1], answer, row_count(record))
        if self._keeps:
            self._pairs[record.shadow_of] = (record.assignment_key, pair)
            if len(self._pairs) > PAIRS_MAX:
                del self._pairs[next(iter(self._pairs))]
        return pair

    def known(self, prediction_id: str) -> tuple[str, Pair] | None:
        """Return the key and the pair of a live prediction whose truth is known now; it stays for the truth of its other rows."""
        return self._pairs.get(prediction_id)

    def state(self) -> Json:
        """Return everything needed to go on exactly."""
        return {"live": dict(self._live), "pairs": dict(self._pairs)}

    def restore(self, state: Json) -> None:
        """Go on from what `state` returned."""
        self._live = cast("dict[str, tuple[str, Tensor]]", state["live"])
        self._pairs = cast("dict[str, tuple[str, Pair]]", state["pairs"])
