"""What of an answer is kept until its ground truth comes. No I/O, no clock."""

from __future__ import annotations

from typing import Final

from gateway.core.models import Task, Version
from gateway.core.records import Outcome, PredictionRecord
from gateway.core.tensors import Tensor
from gateway.monitor.rows import answer_tensor, row_count
from gateway.monitor.sides import is_own
from gateway.monitor.truth import Place, Waiting, packed

PLACES_MAX: Final = 1_000  # shared by waiting predictions; beyond it some are held twice


class Places:
    """Makes what waits, and lets predictions share what is alike in them."""

    def __init__(self) -> None:
        self._places: dict[tuple[object, ...], Place] = {}
        self._last: tuple[tuple[object, ...], Place] | None = None

    def waiting(
        self, record: PredictionRecord, version: Version | None, *, rollout: str, share: float, now_s: float
    ) -> Waiting | None:
        """Return what is kept of a prediction; None when no ground truth can be compared with it.

        Args:
            version: That answered; None when it is not registered.
            rollout: Whose evidence the record is, or empty.
            share: The challenger's in the revision that decided.
        """
        if version is None or version.target.task is Task.OTHER or record.outcome is not Outcome.OK:
            return None
        answer = answer_tensor(version.target, record.outputs)
        if answer is None or answer.data.ndim not in (1, 2) or not answer.data.size:
            return None
        place = self.place(record, answer, rollout if rollout and is_own(record) else "", share)
        return Waiting(place, record.assignment_key, row_count(record), packed(answer.data), now_s)

    def place(self, record: PredictionRecord, answer: Tensor, rollout: str, share: float) -> Place:
        """Return what a prediction is charged to; `rollout` is empty where it is no evidence."""
        share = share if rollout else 0.0
        key = (
            record.route,
            record.model,
            record.version,
            record.variant,
            rollout,
            share,
            answer.datatype._value_,
            answer.data.shape[1:],
        )
        if self._last is not None and self._last[0] == key:
            return self._last[1]  # to compare texts costs less than to hash them
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= PLACES_MAX:
                self._places = {}
            place = self._places[key] = Place(
                route=record.route,
                model=record.model,
                version=record.version,
                variant=record.variant,
                rollout=rollout,
                share=share,
                datatype=answer.datatype,
                row_shape=answer.data.shape[1:],
            )
        self._last = (key, place)
        return place
