"""`backup` and `restore`: a copy of a data directory, made beside a running gateway, and a data directory of a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.commands.session import Gateway, examples, reaches


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog=examples("headgate backup /backups/monday", "headgate backup ./copy --data-dir /var/lib/headgate"))(backup)
    app.command(epilog=examples("headgate restore /backups/monday --data-dir ./headgate-data"))(restore)


@reaches
def backup(gateway: Gateway, to: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")]) -> None:
    """Copy the data directory, consistently, whether or not a gateway runs on it.

    Reads the files on this machine. Left out are the admin token, of which a restored gateway makes a new one, and what is of
    this moment only.
    """
    from gateway.compose.past import back_up

    size = back_up(gateway.data_dir, to)
    typer.echo(f"{size / 1e6:,.1f} MB in {to}")


@reaches
def restore(
    gateway: Gateway,
    backup: Annotated[Path, typer.Argument(metavar="DIR", help="What `headgate backup` wrote.")],
) -> None:
    """Make a new data directory of a backup, after comparing every byte with what was written.

    Start the gateway on it as ever; its admin token is new.
    """
    from gateway.compose.past import restore as restored

    count = restored(backup, gateway.data_dir)
    typer.echo(f"{count:,} files in {gateway.data_dir}: headgate serve --data-dir {gateway.data_dir}")
