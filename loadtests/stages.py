"""The stages of one prediction, each timed by itself: the same functions that the worker calls, in a loop, with warm caches.

The first figure of a form is a request alone, `of 16` one among sixteen that arrived in one turn of the event loop, as most do
under load.
"""

from __future__ import annotations

import asyncio
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from adapters.clock import SystemClock
from adapters.logs.segments import SegmentWriter
from adapters.runtimes.onnx import OnnxRuntime
from gateway.core.models import Digest, Runtime, Version
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.routes import champion_route
from gateway.core.split import hashed_key, slot_of
from gateway.core.tensors import VARIABLE, Datatype, Signature, Tensor, TensorSpec
from gateway.serving.batch import Job, execute
from gateway.serving.checking import Checker
from gateway.serving.ids import PredictionIds
from gateway.serving.wire import decode_infer, encode_infer
from gateway.settings import LogSettings
from loadtests import load, model

GROUP = 16
RUNS, REPEATS = 2_000, 7


def print_stages(console: Console) -> None:
    """Time every stage for both forms of a row and print µs a request."""
    table = Table(title="Stages of the path, µs a request, alone in a loop", title_justify="left")
    for column in ("stage", *(heading for form in load.Inputs for heading in (form.value, f"of {GROUP}"))):
        table.add_column(column, justify="left" if column == "stage" else "right")
    with tempfile.TemporaryDirectory() as directory:
        artifacts = {form: model.write_model(Path(directory) / f"{form.name}.onnx", inputs=form) for form in load.Inputs}
        wide, named = (asyncio.run(_measured(form, path, Path(directory) / form.name)) for form, path in artifacts.items())
    for stage in wide:
        table.add_row(stage, *(f"{cost:.1f}" for cost in (*wide[stage], *named[stage])))
    together = zip(*((*wide[stage], *named[stage]) for stage in wide), strict=True)
    table.add_row("together", *(f"{sum(costs):.1f}" for costs in together))
    console.print(table)


async def _measured(form: load.Inputs, artifact: Path, directory: Path) -> dict[str, tuple[float, float]]:
    """Return µs a request of each stage, alone and in a group. Runs in a loop because jobs hold futures."""
    clock, loop = SystemClock(), asyncio.get_running_loop()
    version = Version("small", "1", Digest("0" * 64), 0, Runtime.ONNX, "", _signature(form))
    checker, instance = Checker(version), OnnxRuntime().load(artifact, version)
    ids, route, body = PredictionIds(clock), champion_route("small", "1"), load.body(form)
    request = decode_infer(body)
    inputs, rows = checker.checked(request)
    prediction_id = ids.next()
    job = Job(prediction_id, 0, inputs, rows, (), clock.monotonic_s() + 60, clock.monotonic_s(), loop.create_future())
    (ran,) = execute(instance.predict, checker, [job], clock)
    limits = LogSettings()
    log = SegmentWriter(
        directory,
        "w0",
        segment_bytes_max=limits.segment_bytes_max,
        segment_age_s=limits.segment_age_s,
        bytes_max=limits.bytes_max,
        free_bytes_min=limits.free_bytes_min,
        clock=clock,
    )

    def recorded() -> PredictionRecord:
        return _record(prediction_id, inputs, ran.outputs, clock.now_s())

    record = recorded()
    found = {
        "decode": _both(lambda: decode_infer(body)),
        "route": _both(lambda: (ids.next(), route.owners[slot_of(route.salt, "key-1")])),
        "check": _both(lambda: checker.checked(request)),
        "run": (
            _us(lambda: execute(instance.predict, checker, [job], clock)),
            _us(lambda: execute(instance.predict, checker, [job] * GROUP, clock)) / GROUP,
        ),
        "record": (
            _us(lambda: log.append([recorded()])),
            _us(lambda: log.append([recorded() for _ in range(GROUP)])) / GROUP,
        ),
        "respond": _both(lambda: encode_infer(request, record)),
    }
    log.close()
    return found


def _signature(form: load.Inputs) -> Signature:
    widths = {"features": load.FEATURES} if form is load.Inputs.WIDE else dict.fromkeys(load.columns(), 1)
    return Signature(
        inputs=tuple(TensorSpec(name, Datatype.FP32, (VARIABLE, width)) for name, width in widths.items()),
        outputs=(TensorSpec("probability", Datatype.FP32, (VARIABLE, 1)),),
    )


def _record(prediction_id: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], time_s: float) -> PredictionRecord:
    return PredictionRecord(
        prediction_id=prediction_id,
        time_s=time_s,
        kind=Kind.LIVE,
        model="small",
        route="small",
        revision=1,
        assigned="champion",
        variant="champion",
        version="1",
        digest="0" * 64,
        attempts=(Attempt("champion", "1", Outcome.OK, 12),),
        assignment_key=hashed_key("key-1"),
        is_keyed=True,
        inputs=inputs,
        outputs=outputs,
        batch_rows=1,
        batch_position=0,
        runtime_version="1.0.0",
        outcome=Outcome.OK,
        latency_us=150,
    )


def _both(call: Callable[[], object]) -> tuple[float, float]:
    """Return the cost of what a group does not make cheaper."""
    cost = _us(call)
    return cost, cost


def _us(call: Callable[[], object]) -> float:
    return median(timeit.repeat(call, number=RUNS, repeat=REPEATS)) / RUNS * 1e6
