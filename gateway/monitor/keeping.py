"""What a rollout's guardrails remember of requests until their truth is known. Bounded, the oldest dropped first. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from gateway.core.fields import Json
from gateway.core.records import PredictionRecord
from gateway.monitor.measured import Kept
from gateway.monitor.rails import Rail

KEPT_MAX: Final = 100_000  # predictions of which something is kept until their truth is known


class Keeping:
    """What is kept, by prediction id and guardrail."""

    def __init__(self, rails: Sequence[Rail]) -> None:
        self._keeping = [(rail.guardrail.name, rail.kept_of) for rail in rails if rail.kept_of is not None]
        self._kept: dict[str, dict[str, Kept]] = {}

    def keep(self, record: PredictionRecord) -> None:
        """Remember what guardrails need of a prediction."""
        if not self._keeping:
            return
        kept = {name: found for name, kept_of in self._keeping if (found := kept_of(record)) is not None}
        if kept:
            self._kept[record.prediction_id] = kept
            if len(self._kept) > KEPT_MAX:
                del self._kept[next(iter(self._kept))]

    def taken(self, prediction_id: str) -> dict[str, Kept]:
        """Return what was kept of a prediction, by guardrail, and forget it."""
        return self._kept.pop(prediction_id, {})

    def state(self) -> Json:
        """Return everything needed to go on exactly."""
        return dict(self._kept)

    def restore(self, state: Json) -> None:
        """Go on from what `state` returned."""
        self._kept = cast("dict[str, dict[str, Kept]]", state)
