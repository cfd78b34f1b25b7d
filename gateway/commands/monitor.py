"""`monitor`: whether the monitor itself is well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import typer

from gateway.commands import output
from gateway.commands.session import REFUSED, Gateway, JsonOption, examples, reaches
from gateway.core.sampling import share_shown

_DRILLS: Final = ("aa", "drift", "harm")
_PROCESSES: Final[dict[str, output.Cell]] = {
    "process": lambda one: one["process"],
    "routes": lambda one: one.get("routes"),
    "records": lambda one: one.get("records"),
    "behind": lambda one: f"{float(str(one['lag_s'])):.1f} s" if "lag_s" in one else None,
    "share looked at": lambda one: share_shown(_rate(one)),
    "published": lambda one: output.moment(one.get("published_at_s")),
}
group = typer.Typer(help="The monitor itself: its lag, what it could not judge, its drills.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="monitor")


@group.command(epilog=examples("headgate monitor show", "headgate monitor show --json"))
@reaches
def show(gateway: Gateway, as_json: JsonOption = False) -> None:
    """Show how the monitor is, and what came of its drills on made-up traffic; exit code 1 if it is not well."""
    with gateway.admin() as admin:
        found = admin.monitor()
    ending = typer.Exit(0 if found.get("is_well") else REFUSED)
    if as_json:
        output.show_json(found)
        raise ending
    for complaint in output.objects(found.get("complaints")):
        typer.echo(f"not well: {complaint.get('reason')}")
    if found.get("is_well"):
        typer.echo("the monitor is well")
    truth, drills = output.mapping(found.get("truth")), output.mapping(found.get("drills"))
    if "lag_s" in found:
        typer.echo(f"{found['lag_s']:.1f} s behind the log, {found['records']:,} records read, {found['late']:,} out of order")
        sampling = output.mapping(found.get("sampling"))
        share, passed_over = share_shown(_rate(found)), sampling.get("passed_over", 0)
        typer.echo(f"it looks at {share} of what comes; {passed_over:,} predictions were passed over")
        dropped, unmatched = truth.get("dropped", 0), truth.get("unmatched", 0)
        typer.echo(f"ground truth: {truth.get('waiting_rows', 0):,} rows wait, {dropped:,} gave way, {unmatched:,} unmatched")
    if processes := output.mapping(found.get("processes")):
        output.show_table([{"process": name, **output.mapping(one)} for name, one in processes.items()], _PROCESSES, empty="")
    columns: dict[str, output.Cell] = {
        "drill": lambda one: one["drill"],
        "endings": lambda one: ", ".join(f"{count} {ending}" for ending, count in output.mapping(one.get("endings")).items()),
        "last": lambda one: output.mapping(one.get("last")).get("ending"),
        "requests": lambda one: output.mapping(one.get("last")).get("requests"),
        "ended": lambda one: output.moment(output.mapping(one.get("last")).get("ended_at_s")),
        "found": lambda one: output.shortened(output.mapping(one.get("last")).get("reason")),
    }
    if drills.get("is_on"):
        output.show_table([{"drill": drill, **output.mapping(drills.get(drill))} for drill in _DRILLS], columns, empty="")
    elif drills:
        typer.echo("drills are off (monitor.drill_s is 0)")
    raise ending


def _rate(found: Mapping[str, object]) -> float:
    return float(str(output.mapping(found.get("sampling")).get("rate", 1.0)))
