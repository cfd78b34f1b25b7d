"""`notices`: who is told, what waits to be told, and whether a channel works."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.commands import output
from gateway.commands.session import Gateway, JsonOption, examples, reaches

group = typer.Typer(help="What people are told, by e-mail, Slack, PagerDuty, webhooks.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="notices")


@group.command("list", epilog=examples("headgate notices list", "headgate notices list --json"))
@reaches
def list_notices(gateway: Gateway, as_json: JsonOption = False) -> None:
    """List the channels, the notices that wait for one of them, and what lasts."""
    with gateway.admin() as admin:
        told = admin.notices()
    if as_json:
        return output.show_json(told)
    channels: dict[str, output.Cell] = {
        "channel": lambda one: one.get("channel"),
        "kind": lambda one: one.get("kind"),
        "from": lambda one: one.get("severity"),
        "routes": lambda one: one.get("routes") or "all",
        "teams": lambda one: one.get("teams") or "all",
        "kinds": lambda one: one.get("kinds") or "all",
        "quiet, UTC": lambda one: output.shown(one.get("quiet")).replace(", ", " to "),
        "waiting": lambda one: one.get("waiting"),
        "delivered": lambda one: one.get("delivered"),
        "lost": lambda one: one.get("lost"),
        "last failure": lambda one: output.shortened(one.get("error")),
    }
    output.show_table(list(output.objects(told.get("channels"))), channels, empty="no channels; notices.file names them")
    waiting: dict[str, output.Cell] = {
        "time": lambda one: output.moment(one.get("time_s")),
        "severity": lambda one: one.get("severity"),
        "notice": lambda one: output.shortened(one.get("title")),
        "waits for": lambda one: ", ".join(map(str, names)) if isinstance(names := one.get("channels"), list) else "",
    }
    output.show_table(list(output.objects(told.get("waiting"))), waiting, empty="nothing waits")
    lasting: dict[str, output.Cell] = {
        "since": lambda one: output.moment(one.get("time_s")),
        "severity": lambda one: one.get("severity"),
        "what lasts": lambda one: output.shortened(one.get("title")),
        "told to": lambda one: one.get("told") or "nobody",
    }
    return output.show_table(list(output.objects(told.get("open"))), lasting, empty="nothing lasts")


@group.command(epilog=examples("headgate notices test on-call"))
@reaches
def test(gateway: Gateway, channel: Annotated[str, typer.Argument(help="The channel's name.")]) -> None:
    """Send a test through a channel now; fails with the channel's reason."""
    with gateway.admin() as admin:
        admin.test_channel(channel)
    typer.echo(f"{channel} took it")
