"""`rollouts`: move a route from its champion to a challenger, watch the evidence, and decide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.commands import output
from gateway.commands.session import Gateway, JsonOption, ReasonOption, RouteArgument, examples, fail, reaches
from gateway.core.fields import Json

if TYPE_CHECKING:
    from gateway.client import AdminClient

group = typer.Typer(help="Moving a route from champion to challenger, over time.", no_args_is_help=True)
IdArgument = Annotated[str, typer.Argument(help="The rollout; the route's newest by default.")]
_EVENTS: Final = {  # command → its help; each is an event of the rollout's state machine
    "advance": "Raise the challenger to the next step now.",
    "hold": "Keep the weights as they are; only a rollback may happen by itself.",
    "resume": "End a hold.",
    "promote": "Make the challenger the champion: it answers everything, and the alias points at it.",
    "approve": "Say yes to the promotion that a rollout waits with. Needs the scope `approve`.",
    "rollback": "Give everything back to the champion at once. Needs a reason.",
}


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    for event, sentence in _EVENTS.items():
        group.command(
            event,
            help=sentence,
            epilog=examples(
                f"headgate rollouts {event} delays", f"headgate rollouts {event} delays 01J… --reason 'agreed with the desk'"
            ),
        )(_mover(event))
    app.add_typer(group, name="rollouts")


@group.command(
    epilog=examples(
        "headgate rollouts start delays --version 2 --reason 'trained on July'",
        "headgate rollouts start delays --version 2 --plan plan.yaml",
        "headgate rollouts start delays --version 2 --step 500 --step 2500 --step 5000 --by-hand",
    )
)
@reaches
def start(
    gateway: Gateway,
    route: RouteArgument,
    *,
    version: Annotated[str, typer.Option("--version", metavar="VERSION", help="The version to move to.")],
    plan: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="How it goes, as YAML or JSON (docs/rollouts.md); everything has a default."),
    ] = None,
    step: Annotated[
        list[int] | None,
        typer.Option(min=1, max=10_000, help="A step's weight, out of 10000, instead of the plan's. Repeat, rising."),
    ] = None,
    by_hand: Annotated[bool, typer.Option("--by-hand", help="Only a person goes on. Rollback still happens by itself.")] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Start a rollout, which then goes by itself from phase to phase as its plan says: forward on evidence, back on evidence."""
    from gateway.commands.documents import read_plan

    wanted: dict[str, object] = {"steps": step or None, "advances_itself": False if by_hand else None}
    body = (read_plan(plan) if plan is not None else {}) | {name: value for name, value in wanted.items() if value is not None}
    with gateway.admin() as admin:
        rollout = admin.start_rollout(route, version, plan=body, reason=reason)
    return output.show_json(rollout) if as_json else _show(rollout)


@group.command("list", epilog=examples("headgate rollouts list delays", "headgate rollouts list delays --json"))
@reaches
def list_rollouts(gateway: Gateway, route: RouteArgument, as_json: JsonOption = False) -> None:
    """List a route's rollouts, the newest first."""
    with gateway.admin() as admin:
        rollouts = list(admin.rollouts(route))
    if as_json:
        return output.show_json(rollouts)
    columns: dict[str, output.Cell] = {
        "rollout": lambda rollout: rollout.get("id"),
        "state": lambda rollout: rollout.get("state"),
        "champion": lambda rollout: rollout.get("champion"),
        "challenger": lambda rollout: rollout.get("challenger"),
        "step": _step,
        "started": lambda rollout: output.moment(rollout.get("started_at_s")),
        "changed": lambda rollout: output.moment(rollout.get("changed_at_s")),
        "reason": lambda rollout: output.shortened(rollout.get("reason")),
    }
    return output.show_table(rollouts, columns, empty=f"no rollouts on {route}; start one with `headgate rollouts start`")


@group.command(epilog=examples("headgate rollouts show delays", "headgate rollouts show delays --json"))
@reaches
def show(gateway: Gateway, route: RouteArgument, rollout: IdArgument = "", as_json: JsonOption = False) -> None:
    """Show one rollout with its evidence."""
    with gateway.admin() as admin:
        found = admin.rollout(route, rollout or _newest(admin, route))
    return output.show_json(found) if as_json else _show(found)


def _mover(event: str) -> Callable[..., None]:
    def move(
        gateway: Gateway,
        route: RouteArgument,
        rollout: IdArgument = "",
        reason: ReasonOption = "",
        as_json: JsonOption = False,
    ) -> None:
        with gateway.admin() as admin:
            moved = admin.move_rollout(route, rollout or _newest(admin, route), event, reason=reason)
        return output.show_json(moved) if as_json else _show(moved)

    move.__doc__ = _EVENTS[event]
    return reaches(move)


def _newest(admin: AdminClient, route: str) -> str:
    newest = next(admin.rollouts(route), None)
    if newest is not None:
        return str(newest.get("id"))
    return fail(f"route {route} has had no rollout", "start one with `headgate rollouts start`")


def _show(rollout: Json) -> None:
    plan = output.mapping(rollout.get("plan"))
    output.show_facts(
        {
            "rollout": rollout.get("id"),
            "route": rollout.get("route"),
            "state": rollout.get("state"),
            "reason": rollout.get("reason"),
            "champion": rollout.get("champion"),
            "challenger": rollout.get("challenger"),
            "step": _step(rollout),
            "advances": "by itself" if plan.get("advances_itself") else "by hand",
            "started": output.moment(rollout.get("started_at_s")),
            "changed": output.moment(rollout.get("changed_at_s")),
        }
    )
    explanation = rollout.get("explanation")
    for sentence in explanation if isinstance(explanation, list) else []:
        typer.echo(sentence)


def _step(rollout: Json) -> str:
    steps = output.mapping(rollout.get("plan")).get("steps")
    at = rollout.get("step")
    if not isinstance(steps, list) or not isinstance(at, int) or not 0 <= at < len(steps):
        return ""
    weight = output.mapping(steps[at]).get("weight")
    return f"{at + 1} of {len(steps)} ({weight / 100:g} %)" if isinstance(weight, int) else ""
