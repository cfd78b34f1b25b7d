"""`health`: how a route is, part by part, with what each part rests on."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.commands import output
from gateway.commands.session import Gateway, JsonOption, examples, reaches


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(epilog=examples("headgate health delays", "headgate health delays --json"))(health)


@reaches
def health(
    gateway: Gateway,
    route: Annotated[str, typer.Argument(help="The route's name.")],
    as_json: JsonOption = False,
) -> None:
    """Show how a route is: errors, latency, drift, quality and its rollout, the worst first. The worst decides."""
    with gateway.admin() as admin:
        found = admin.health(route)
    if as_json:
        return output.show_json(found)
    columns: dict[str, output.Cell] = {
        "part": lambda one: one.get("part"),
        "level": lambda one: one.get("level"),
        "evidence": lambda one: one.get("evidence"),
    }
    return output.show_table(output.objects(found.get("parts")), columns, empty="nothing is known of the route")
