"""Copies for shadows: queued, bounded, and run when no live request waits.

A copy costs a full prediction, so copies yield: they enter their pools in small groups while the loop's next turn is empty, or
after waiting for a while, so that a loop that is never empty still learns something. What finds no room is dropped and counted;
the caller whose request was copied never waits. A copy's record is of kind `shadow` and names the live prediction.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.errors import GatewayError
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.split import SLOTS, slot_of_id
from gateway.ports.clock import Clock
from gateway.serving.batch import Ran
from gateway.serving.ids import PredictionIds
from gateway.serving.recorder import Recorder
from gateway.serving.table import ServedRoute, ServedShadow
from gateway.serving.turn import Turn

_TICK_S: Final = 0.002  # between looks whether the loop is idle
_PATIENCE_S: Final = 0.05  # then a group enters although the loop is busy: at most one group in so long
_GROUP_ROWS: Final = 64  # rows of copies in the pools at once; one batch


@dataclass(frozen=True, slots=True)
class _Copy:
    shadow: ServedShadow
    live: PredictionRecord
    rows: int
    size_bytes: int
    queued_s: float


class ShadowQueue:
    """The copies of one worker."""

    def __init__(
        self,
        *,
        ids: PredictionIds,
        recorder: Recorder,
        turn: Turn,
        copies_max: int,
        bytes_max: int,
        clock: Clock,
    ) -> None:
        """Start without a copy.

        Args:
            bytes_max: Of the inputs that waiting copies hold: a thousand large ones would take the worker's memory.
        """
        self._ids = ids
        self._recorder = recorder
        self._turn = turn
        self._copies_max, self._bytes_max = copies_max, bytes_max
        self._clock = clock
        self._copies: deque[_Copy] = deque()
        self._bytes = 0  # of the inputs of `_copies`
        self._rows_running = 0
        self._is_ticking = False

    def mirror(self, route: ServedRoute, live: PredictionRecord, rows: int) -> None:
        """Queue a copy of a live prediction's inputs for each of the route's shadows that its id falls to."""
        for shadow in route.shadows:
            if shadow.slots < SLOTS and slot_of_id(shadow.variant.name, live.prediction_id) >= shadow.slots:
                continue
            size_bytes = sum(tensor.size_bytes for tensor in live.inputs)
            is_full = len(self._copies) >= self._copies_max or self._bytes + size_bytes > self._bytes_max
            if shadow.variant.pool is None or is_full or not shadow.variant.takes(rows):
                shadow.dropped.add(1.0)
                continue
            self._copies.append(_Copy(shadow, live, rows, size_bytes, self._clock.monotonic_s()))
            self._bytes += size_bytes
            self._wake()

    def _wake(self) -> None:
        if not self._is_ticking:
            self._is_ticking = True
            self._turn.loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._is_ticking = False
        if not self._copies:
            return
        waited_s = self._clock.monotonic_s() - self._copies[0].queued_s
        if self._turn.is_idle or waited_s > _PATIENCE_S:
            while self._copies and self._rows_running < _GROUP_ROWS:
                copy = self._copies.popleft()
                self._bytes -= copy.size_bytes
                self._enter(copy)
        if self._copies:
            self._wake()

    def _enter(self, copy: _Copy) -> None:
        variant, pool = copy.shadow.variant, copy.shadow.variant.pool
        assert pool is not None, "a shadow without a pool gets no copies"
        prediction_id = self._ids.next()
        deadline_s = self._clock.monotonic_s() + variant.route.deadline_ms / 1000.0
        try:
            future = pool.submit(prediction_id, variant.place, copy.live.inputs, copy.rows, deadline_s=deadline_s, is_copy=True)
        except GatewayError:
            copy.shadow.dropped.add(1.0)
            return
        self._rows_running += copy.rows
        future.add_done_callback(lambda done: self._over(copy, prediction_id, done))

    def _over(self, copy: _Copy, prediction_id: str, done: asyncio.Future[Ran]) -> None:
        self._rows_running -= copy.rows
        if done.cancelled() or done.exception() is not None:
            copy.shadow.dropped.add(1.0)
            return
        ran, variant = done.result(), copy.shadow.variant
        if ran.outcome is not Outcome.OK and not copy.rows:
            return  # no row, no fault; see the live path
        self._recorder.add_unwaited(
            replace(
                copy.live,
                prediction_id=prediction_id,
                time_s=self._recorder.time_s(),
                kind=Kind.SHADOW,
                assigned=variant.name,
                variant=variant.name,
                version=variant.version.version,
                digest=variant.version.digest,
                attempts=(Attempt(variant.name, variant.version.version, ran.outcome, ran.duration_us),),
                outputs=ran.outputs,
                batch_rows=ran.batch_rows,
                batch_position=ran.batch_position,
                runtime_version=variant.pool.runtime_version if variant.pool else "",
                outcome=ran.outcome,
                latency_us=round((self._clock.monotonic_s() - copy.queued_s) * 1e6),
                shadow_of=copy.live.prediction_id,
            )
        )
        variant.count(Kind.SHADOW, ran.outcome)
