"""Copies yield: while the loop's next turn has work, they wait, and only patience lets a group in."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from adapters.clock import SystemClock
from adapters.inflight import MappedInFlight
from adapters.logs.memory import MemoryLog
from adapters.memory import MemoryBank
from adapters.suspicions_file import SuspicionsFile
from gateway.core.models import Digest, Runtime, Version
from gateway.core.records import PredictionRecord
from gateway.core.routes import Revision, RouteTable, route_from_body
from gateway.core.split import assign_slots
from gateway.core.tensors import Array, Datatype, Signature, Tensor, TensorSpec
from gateway.serving.ids import PredictionIds
from gateway.serving.poison import Poison
from gateway.serving.pools import Pool
from gateway.serving.recorder import Recorder
from gateway.serving.shadow import ShadowQueue
from gateway.serving.table import Bench, ServedRoute
from gateway.serving.turn import Turn
from gateway.serving.warming import Cost, Warm
from gateway.settings import LogSettings, ServingSettings
from tests.records import prediction

SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, (-1, 1)),), (TensorSpec("y", Datatype.FP32, (-1, 1)),))
VERSION = Version("m", "2", Digest("ab" * 32), 1, Runtime.ONNX, "0", SIGNATURE, (), cost_us_per_row=1.0)
BODY = {
    "model": "m",
    "variants": [{"name": "a", "version": "1", "weight": 10_000}],
    "shadows": [{"name": "s", "version": "2", "fraction": 1.0}],
}


class Counting:
    """An instance that counts its runs."""

    concurrency: ClassVar = 1
    runtime_version: ClassVar = "0"

    def __init__(self) -> None:
        self.runs = 0

    def predict(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Count and answer."""
        self.runs += 1
        return {"y": inputs["x"]}

    def close(self) -> None:
        """Nothing to release."""


class Busy:
    """Live work that never ends, until told."""

    def __init__(self) -> None:
        self.is_over = False
        self.turns = 0

    def run_inline(self, budget_us: float) -> tuple[float, bool]:
        """Take the whole turn."""
        self.turns += 1
        return budget_us, not self.is_over


def test_copies_wait_while_live_work_does(tmp_path: Path):
    """Behind a loop that is never idle a copy waits for 50 ms of patience; behind an idle one it runs at once."""

    async def main() -> None:
        loop, clock, metrics, settings = asyncio.get_running_loop(), SystemClock(), MemoryBank(), ServingSettings()
        in_flight, instance, busy = MappedInFlight(tmp_path / "w0"), Counting(), Busy()
        turn = Turn(loop, settings.inline_turn_us_max)
        warm = Warm(VERSION, instance, Cost(1.0, 0.0))
        poison = Poison(SuspicionsFile(tmp_path / "poison"), keep_s=60.0, metrics=metrics, clock=clock)
        pool = Pool(warm, turn=turn, settings=settings, in_flight=in_flight, poison=poison, metrics=metrics, clock=clock)
        made = route_from_body("r", BODY)
        made = replace(made, owners=assign_slots([("a", 10_000)]), salt="s")
        table = RouteTable(Revision(1), {"r": made}, {}, {("m", "1"): replace(VERSION, version="1"), ("m", "2"): VERSION})
        route = ServedRoute(made, table, {("m", "2"): pool}, Bench(in_flight, metrics))
        recorder = Recorder(MemoryLog().writer("w0"), settings=LogSettings(), metrics=metrics, clock=clock, loop=loop)
        queue = ShadowQueue(ids=PredictionIds(clock), recorder=recorder, turn=turn, copies_max=10, bytes_max=1 << 20, clock=clock)

        async def copied() -> float:
            """Mirror one prediction; return how long its copy took to run."""
            began_s, runs = clock.monotonic_s(), instance.runs
            queue.mirror(route, _live(), 1)
            async with asyncio.timeout(5):
                while instance.runs == runs:  # noqa: ASYNC110 - the version tells nobody
                    await asyncio.sleep(0)
            return clock.monotonic_s() - began_s

        turn.add(busy)
        assert await copied() >= 0.05
        assert busy.turns > 10
        busy.is_over = True
        while not turn.is_idle:  # noqa: ASYNC110 - the turn tells nobody
            await asyncio.sleep(0)
        quickest_s = min([await copied() for _ in range(5)])
        assert quickest_s < 0.05

    asyncio.run(main())


def _live() -> PredictionRecord:
    inputs = (Tensor("x", Datatype.FP32, np.ones((1, 1), np.float32)),)
    return prediction(prediction_id="01234567-89ab-7def-8123-456700000000", inputs=inputs, outputs=inputs)
