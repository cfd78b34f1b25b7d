"""`serve` and `demo`: the commands that run a gateway rather than talk to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.commands.session import Connection, DataDirOption, examples, fail, with_failures_shown

DemoDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="An empty or new directory, which stays; a temporary one by default."),
]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog=examples(
            "headgate serve --data-dir ./headgate-data --workers 2",
            "headgate serve --port 9000 --admin-port 9001 --grpc-port 9002",
        )
    )(serve)
    app.command(epilog=examples("headgate demo", "headgate demo --keep --data-dir ./flights"))(demo)


def serve(
    context: typer.Context,
    *,
    data_dir: DataDirOption = None,
    host: Annotated[str | None, typer.Option(help="Where predictions are taken; 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Of the prediction API; 8080 by default, 0 for a free one.")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Of the admin API; 8081 by default, 0 for a free one.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Of the prediction API over gRPC, 0 for a free one; none by default.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Serving processes; each can use one core. 1 by default.")
    ] = None,
    monitors: Annotated[
        int | None, typer.Option(min=1, max=64, help="Monitor processes, which share the routes. 1 by default.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(dir_okay=False, exists=True, help="A TOML file of settings; see docs/operations.md.")
    ] = None,
) -> None:
    """Run the gateway until Ctrl-C or SIGTERM.

    The first start creates the data directory and an admin token in it. Settings come from --config, then HEADGATE_… variables,
    then these options; later ones win.
    """
    given = {
        "data_dir": _data_dir(context, data_dir),
        "serving.host": host,
        "serving.port": port,
        "control.port": admin_port,
        "serving.grpc_port": grpc_port,
        "serving.workers": workers,
        "monitor.processes": monitors,
    }
    with_failures_shown(_serve, config, {name: value for name, value in given.items() if value is not None})


def demo(
    context: typer.Context,
    *,
    data_dir: DemoDirOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the gateway running at the end, for looking around.")] = False,
    seconds: Annotated[
        float, typer.Option(min=30, max=3_600, help="Of the replay; below 60 the versions may answer too little to tell.")
    ] = 150.0,
) -> None:
    r"""Replay real flights through a gateway: a sound version is promoted, a faulty one rolled back by itself.

    Needs the demo extra: pip install 'headgate\[demo]'.
    """
    try:
        from gateway.demo.run import run_demo
    except ModuleNotFoundError as error:
        fail(f"the demo needs the package {error.name}", "pip install 'headgate[demo]'")
    chosen = _data_dir(context, data_dir)
    raise typer.Exit(run_demo(Path(chosen) if chosen is not None else None, keep=keep, seconds=seconds))


def _serve(config: Path | None, overrides: dict[str, object]) -> None:
    from gateway.settings import load_settings
    from gateway.supervisor import supervise

    raise typer.Exit(supervise(load_settings(config, os.environ, overrides)))


def _data_dir(context: typer.Context, given: Path | None) -> str | None:
    """Return the data directory named after the command, or before it."""
    before: Connection = context.find_root().obj or Connection()
    chosen = given or before.data_dir
    return None if chosen is None else str(chosen)
