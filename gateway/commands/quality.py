"""`quality`: how good a route's versions turned out to be, and how much of their ground truth is known."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.commands import output
from gateway.commands.session import Gateway, JsonOption, examples, reaches
from gateway.core.fields import Json


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(epilog=examples("headgate quality delays", "headgate quality delays --json"))(quality)


@reaches
def quality(
    gateway: Gateway,
    route: Annotated[str, typer.Argument(help="The route's name.")],
    as_json: JsonOption = False,
) -> None:
    """Show losses, coverage and delay of ground truth by version, and the loss estimated before it comes."""
    with gateway.admin() as admin:
        found = admin.quality(route)
    if as_json:
        return output.show_json(found)
    shown = found.get("quality")
    versions = output.objects(shown.get("versions")) if isinstance(shown, dict) else []
    columns: dict[str, output.Cell] = {
        "variant": lambda one: one.get("variant"),
        "version": lambda one: one.get("version"),
        "mean loss": lambda one: one.get("mean_loss"),
        "estimated": lambda one: one.get("estimated_loss"),
        "rows": lambda one: one.get("rows"),
        "known": lambda one: one.get("rows_known"),
        "coverage": lambda one: one.get("coverage"),
        "delay p50": lambda one: _seconds(one, "delay_s_p50"),
        "delay p90": lambda one: _seconds(one, "delay_s_p90"),
        "corrected": lambda one: one.get("corrected"),
    }
    return output.show_table(versions, columns, empty="no answer of the route can be scored yet")


def _seconds(version: Json, name: str) -> str:
    value = version.get(name)
    return f"≤ {value:.3g} s" if isinstance(value, int | float) else ""
