"""All commands as one program, and the options that stand before a command."""

from __future__ import annotations

import typer

from gateway.commands import (
    access,
    audit,
    backups,
    drift,
    health,
    models,
    monitor,
    notices,
    predictions,
    processes,
    quality,
    replay,
    report,
    rollouts,
    routes,
)
from gateway.commands.session import AdminUrlOption, Connection, DataDirOption, TokenOption, UrlOption, examples

app = typer.Typer(
    name="headgate",
    help="A model-serving gateway that watches its own predictions and rolls a bad version back by itself.",
    epilog=examples("headgate serve", "headgate models list", "headgate rollouts start delays --version 2"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def connect(
    context: typer.Context,
    admin_url: AdminUrlOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take the connection options before a command as well as after it."""
    context.obj = Connection(admin_url, url, token, data_dir)


for part in (
    processes,
    models,
    routes,
    rollouts,
    predictions,
    health,
    drift,
    quality,
    replay,
    report,
    monitor,
    audit,
    notices,
    access,
    backups,
):
    part.add_to(app)
