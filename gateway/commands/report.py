"""`report`: a route's past as one HTML file. Reads the data directory itself and changes nothing there."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.commands.predictions import SinceOption, UntilOption, span
from gateway.commands.replay import watched
from gateway.commands.session import Gateway, RouteArgument, examples, fail, reaches
from gateway.core.fields import checked_name

if TYPE_CHECKING:
    from gateway.replay.past import Past

_DAY_S: Final = 86_400.0
_DAYS_MAX: Final = 92  # written by one call; each reads the log from its day on


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(
        epilog=examples(
            "headgate report delays --since 7d",
            "headgate report delays --since 2013-07-01T00:00:00Z --until 2013-08-01T00:00:00Z --to july.html",
            "headgate report delays --since 30d --daily reports",
        )
    )(report)


@reaches
def report(
    gateway: Gateway,
    route: RouteArgument,
    *,
    since: SinceOption = "24h",
    until: UntilOption = "",
    to: Annotated[Path | None, typer.Option(dir_okay=False, help="The file to write; else report-ROUTE.html.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    daily: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Write one file for each whole UTC day, DIR/ROUTE/DATE.html, that is not there yet."),
    ] = None,
) -> None:
    """Write what a route did as one HTML file to mail around: quality by version, drift, data quality, incidents, latency, usage.

    Reads the data directory on this machine, beside a running gateway or without one, and writes nothing to it.
    """
    from gateway.compose.past import opened_past

    now_s = time.time()
    begin, end = span(since, until or f"{now_s}")
    since_s, until_s = float(begin or 0.0), float(end)
    if daily is not None and to is not None:
        raise typer.BadParameter("give either --to or --daily")
    checked_name(route, "route")  # it becomes part of a path
    with opened_past(gateway.data_dir) as past:
        if daily is None:
            path = to or Path(f"report-{route}.html")
            if path.exists() and not force:
                fail(f"{path} exists", "choose another name, or give --force")
            _write(past, route, (since_s, until_s), path, now_s)
            return
        for begin_s in _days(since_s, min(until_s, now_s)):
            date = datetime.fromtimestamp(begin_s, UTC).strftime("%Y-%m-%d")
            path = daily / route / f"{date}.html"
            if force or not path.exists():
                _write(past, route, (begin_s, begin_s + _DAY_S), path, now_s)


def _days(since_s: float, until_s: float) -> list[float]:
    """Return the beginnings of the days that are over."""
    first = int(since_s // _DAY_S)
    days = [day * _DAY_S for day in range(first, int(until_s // _DAY_S))]
    if len(days) > _DAYS_MAX:
        raise typer.BadParameter(f"{len(days):,} days are over {_DAYS_MAX}", param_hint="--since")
    return days


def _write(past: Past, route: str, between: tuple[float, float], path: Path, now_s: float) -> None:
    from gateway.report.build import build_report
    from gateway.report.page import page
    from gateway.report.spans import spans_between

    spans = spans_between(*between)
    with watched(f"reading for {path.name}", {"since_s": spans.since_s, "until_s": now_s}) as progress:
        found = build_report(past, route, spans, made_at_s=now_s, progress=progress)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page(found), encoding="utf-8", errors="replace")
        part.replace(path)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    typer.echo(f"wrote {path}: {sum(found.tallies.kinds.values()):,} predictions")
