"""`quarantine`, `automation` and `keys`: what a person allows, and to whom."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.commands import output
from gateway.commands.session import Gateway, JsonOption, ReasonOption, examples, reaches
from gateway.core.access import Scope
from gateway.core.fields import Json

quarantine = typer.Typer(help="Artifacts that no rollout may use, since the gateway rolled them back.", no_args_is_help=True)
automation = typer.Typer(help="The switch that stops all automatic changes.", no_args_is_help=True)
keys = typer.Typer(help="Tokens and their scopes.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(quarantine, name="quarantine")
    app.add_typer(automation, name="automation")
    app.add_typer(keys, name="keys")


@quarantine.command("list", epilog=examples("headgate quarantine list", "headgate quarantine list --json"))
@reaches
def list_quarantine(gateway: Gateway, as_json: JsonOption = False) -> None:
    """List digests in quarantine, and those released or over with their strikes."""
    with gateway.admin() as admin:
        items = list(admin.quarantines())
    if as_json:
        return output.show_json(items)
    columns: dict[str, output.Cell] = {
        "digest": lambda item: item.get("digest"),
        "model": lambda item: item.get("model"),
        "version": lambda item: item.get("version"),
        "until": lambda item: output.moment(item.get("until_s")) if item.get("is_active") else "over",
        "strikes": lambda item: item.get("strikes"),
        "reason": lambda item: output.shortened(item.get("reason")),
    }
    return output.show_table(items, columns, empty="nothing is in quarantine")


@quarantine.command(epilog=examples("headgate quarantine release 9f2c… --reason 'the feed was at fault, not the model'"))
@reaches
def release(
    gateway: Gateway,
    digest: Annotated[str, typer.Argument(help="The artifact's digest, in full.")],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let rollouts use a digest again before its time; its strikes are kept. Needs a reason."""
    with gateway.admin() as admin:
        released = admin.release(digest, reason=reason)
    return output.show_json(released) if as_json else typer.echo(f"released {digest}")


@automation.command("show", epilog=examples("headgate automation show", "headgate automation show --json"))
@reaches
def show_automation(gateway: Gateway, as_json: JsonOption = False) -> None:
    """Show whether the gateway may change routes by itself."""
    with gateway.admin() as admin:
        state = admin.automation()
    return output.show_json(state) if as_json else _tell(state)


@automation.command("on", epilog=examples("headgate automation on --reason 'the incident is over'"))
@reaches
def turn_on(gateway: Gateway, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Let the gateway advance and roll back by itself. Needs a reason."""
    _turn(gateway, is_on=True, reason=reason, as_json=as_json)


@automation.command("off", epilog=examples("headgate automation off --reason 'ground truth is delayed today'"))
@reaches
def turn_off(gateway: Gateway, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Stop all automatic changes. Rollback by a person, and each worker's own fail-over, go on working. Needs a reason."""
    _turn(gateway, is_on=False, reason=reason, as_json=as_json)


@keys.command(
    "create",
    epilog=examples("headgate keys create ci --scope register", "headgate keys create desk --scope read --scope operate"),
)
@reaches
def create_key(  # noqa: PLR0917 - options of a command
    gateway: Gateway,
    name: Annotated[str, typer.Argument(help="Who will use it; stands in the audit log.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do. Repeat.")],
    requests_per_s: Annotated[float, typer.Option(help="Predictions a second; 0 for any.")] = 0.0,
    burst: Annotated[int, typer.Option(help="Predictions at once; 0 for a second's worth.")] = 0,
    rows_per_day: Annotated[int, typer.Option(help="Rows a day, UTC; 0 for any.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Create a key and print its token, this once."""
    limits = {"requests_per_s": requests_per_s, "burst": burst, "rows_per_day": rows_per_day}
    with gateway.admin() as admin:
        created = admin.create_key(name, [one.value for one in scope], limits=limits if any(limits.values()) else None)
    if as_json:
        return output.show_json(created)
    output.show_facts(
        {"id": created.get("id"), "name": created.get("name"), "scopes": created.get("scopes"), "token": created.get("token")}
    )
    return typer.echo("The token is not stored and cannot be shown again.", err=True)


@keys.command("list", epilog=examples("headgate keys list", "headgate keys list --json"))
@reaches
def list_keys(gateway: Gateway, as_json: JsonOption = False) -> None:
    """List keys; never their tokens."""
    with gateway.admin() as admin:
        items = list(admin.keys())
    if as_json:
        return output.show_json(items)
    columns: dict[str, output.Cell] = {
        "id": lambda key: key.get("id"),
        "name": lambda key: key.get("name"),
        "scopes": lambda key: key.get("scopes"),
        "created": lambda key: output.moment(key.get("created_at_s")),
    }
    return output.show_table(items, columns, empty="no keys")


@keys.command("revoke", epilog=examples("headgate keys revoke 4b1d7c"))
@reaches
def revoke_key(
    gateway: Gateway,
    id: Annotated[str, typer.Argument(help="The key's id, from `headgate keys list`.")],
    as_json: JsonOption = False,
) -> None:
    """Revoke a key; its token is refused from now on."""
    with gateway.admin() as admin:
        revoked = admin.revoke_key(id)
    return output.show_json(revoked) if as_json else typer.echo(f"revoked {id}")


def _turn(gateway: Gateway, *, is_on: bool, reason: str, as_json: bool) -> None:
    with gateway.admin() as admin:
        state = admin.set_automation(is_on=is_on, reason=reason)
    return output.show_json(state) if as_json else _tell(state)


def _tell(state: Json) -> None:
    typer.echo("automation is on" if state.get("is_on") else "automation is off: the gateway changes no route by itself")
    fleet = output.mapping(state.get("fleet"))
    if fleet.get("is_suspended"):
        routes = ", ".join(map(str, names)) if isinstance(names := fleet.get("rolled_back"), list) else ""
        typer.echo(f"nothing is raised until {output.moment(fleet.get('until_s'))}: rolled back lately were {routes}")
