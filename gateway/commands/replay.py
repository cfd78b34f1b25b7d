"""`replay`: another version or another plan over what was logged. Reads the data directory itself and changes nothing there."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.commands import output
from gateway.commands.predictions import SinceOption, UntilOption
from gateway.commands.predictions import span as span_of
from gateway.commands.session import Gateway, JsonOption, examples, reaches

if TYPE_CHECKING:
    from gateway.replay.past import Progress

_LINE_S: Final = 5.0  # between two lines of progress: a person who waits sees that it goes on, and a file stays short
_DAYS: Final[dict[str, output.Cell]] = {
    "day": lambda day: day.get("date"),
    "compared": lambda day: day.get("compared"),
    "equal": lambda day: _percent(day.get("equal_share")),
    "within tolerance": lambda day: _percent(day.get("within_share")),
    "mean difference": lambda day: day.get("mean_difference"),
    "largest": lambda day: day.get("largest_difference"),
    "decisions": lambda day: day.get("decisions"),
    "changed": lambda day: day.get("decisions_changed"),
    "failed": lambda day: day.get("failed"),
    "unfit": lambda day: day.get("unfit"),
}
_ACTS: Final[dict[str, output.Cell]] = {
    "time": lambda act: output.moment(act.get("time_s")),
    "would": lambda act: act.get("event"),
    "attribution": lambda act: act.get("attribution"),
    "on what evidence": lambda act: act.get("reason"),
}


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(
        epilog=examples(
            "headgate replay --route delays --version 3 --since 7d",
            "headgate replay --route delays --plan plan.yaml --since 2013-07-01T00:00:00Z",
        )
    )(replay)


@reaches
def replay(
    gateway: Gateway,
    *,
    route: Annotated[str, typer.Option(help="Whose traffic.")],
    version: Annotated[str, typer.Option(help="Run this version of the route's model over the logged inputs.")] = "",
    plan: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Judge the logged rollouts under this plan, as `rollouts start` takes it."
        ),
    ] = None,
    since: SinceOption = "",
    until: UntilOption = "",
    tolerance: Annotated[float, typer.Option(min=0, help="What two numbers may differ by and count as the same.")] = 1e-6,
    as_json: JsonOption = False,
) -> None:
    """Say what another version would have answered, or when another plan would have acted, over the logged traffic.

    Reads the data directory on this machine, beside a running gateway or without one, and writes nothing to it.
    """
    if bool(version) == (plan is not None):
        raise typer.BadParameter("give either --version or --plan")
    if not math.isfinite(tolerance):
        raise typer.BadParameter("expected a finite number", param_hint="--tolerance")
    ends = zip(("since_s", "until_s"), span_of(since, until), strict=True)
    span = {name: float(text) if text else None for name, text in ends}
    if plan is not None:
        return _replay_plan(gateway, route, plan, span, as_json=as_json)
    return _replay_version(gateway, route, version, span, tolerance=tolerance, as_json=as_json)


@contextlib.contextmanager
def watched(what: str, span: dict[str, float | None]) -> Iterator[Progress]:
    """Show on standard error how far records have come, as a bar or, where nobody watches, in lines; yield what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines(what, every_s=_LINE_S)
        return
    end_s = span.get("until_s") or time.time()
    texts = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[records]:,} records"))
    with Progress(*texts, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task, begin_s = bar.add_task(what, total=None, records=0), 0.0

        def move(records: int, time_s: float) -> None:
            nonlocal begin_s
            begin_s = begin_s or time_s
            bar.update(task, total=max(end_s - begin_s, 1.0), completed=time_s - begin_s, records=records)

        yield move


def lines(what: str, *, every_s: float) -> Progress:
    """Return what writes a line on standard error where the last one is so old: in a file, a bar is unreadable."""
    told_s = time.monotonic()

    def tell(records: int, time_s: float) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= every_s:
            told_s = time.monotonic()
            typer.echo(f"{what}: {records:,} records, up to {output.moment(time_s)}", err=True)

    return tell


def _replay_version(
    gateway: Gateway, route: str, name: str, span: dict[str, float | None], *, tolerance: float, as_json: bool
) -> None:
    from gateway.compose.past import opened_past
    from gateway.ports.archive import Filter
    from gateway.replay.versions import replay_version

    with opened_past(gateway.data_dir) as past, watched("replaying", span) as progress:
        version = past.registry.version(past.registry.table().route(route).model, name)
        wanted = Filter(route=route, since_s=span["since_s"], until_s=span["until_s"])
        found = replay_version(past, version, wanted, tolerance=tolerance, progress=progress).body()
    if as_json:
        return output.show_json(found)
    output.show_table([*output.objects(found["days"]), {**found, "date": "all"}], _DAYS, empty="no predictions there")
    return None


def _replay_plan(gateway: Gateway, route: str, file: Path, span: dict[str, float | None], *, as_json: bool) -> None:
    from gateway.commands.documents import read_plan
    from gateway.compose.past import opened_past
    from gateway.core.plans import plan_from_body
    from gateway.replay.plan import PlanReplay

    plan = plan_from_body(read_plan(file))
    with opened_past(gateway.data_dir) as past, watched("replaying", span) as progress:
        past.registry.table().route(route)  # or it is unknown
        replayed = PlanReplay(past, route, plan)
        replayed.run(since_s=span["since_s"], until_s=span["until_s"], progress=progress)
        found = replayed.body()
    if as_json:
        return output.show_json(found)
    typer.echo(f"{found['records']:,} records of route {route}")
    for one in output.objects(found["rollouts"]):
        was, would = output.mapping(one.get("was")), output.mapping(one.get("would_be"))
        typer.echo(f"\nrollout {one.get('id')}: {one.get('champion')} to {one.get('challenger')}")
        output.show_table(output.objects(one.get("acts")), _ACTS, empty="it would not have acted")
        typer.echo(f"would be {would.get('state')} at step {would.get('step')}: {would.get('reason')}")
        typer.echo(f"was {was.get('state')} at step {was.get('step')}: {was.get('reason')}")
        if not one.get("is_whole"):
            typer.echo("it began before the replayed traffic: its evidence is a part of what there was")
    if not found["rollouts"]:
        typer.echo("no rollout had traffic there: a plan has nothing to judge")
    if drifts := output.objects(found["drift_rollbacks"]):
        typer.echo("\ndrift of the live version would have brought back what stood before it:")
        output.show_table(drifts, _ACTS, empty="")
    return None


def _percent(share: object) -> str:
    return f"{share:.4%}" if isinstance(share, float) else ""
