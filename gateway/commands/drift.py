"""`drift`: what moved in a route's inputs, answers, errors and losses, against training and lately."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.commands import output
from gateway.commands.session import Gateway, JsonOption, examples, reaches
from gateway.core.fields import Json


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(epilog=examples("headgate drift delays", "headgate drift delays --top 50", "headgate drift delays --json"))(drift)


@reaches
def drift(
    gateway: Gateway,
    route: Annotated[str, typer.Argument(help="The route's name.")],
    top: Annotated[int, typer.Option(min=1, help="Show so many features, the furthest over their bound first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show what moved against training and what changed lately, side by side, with the features that carry it.

    Against training: log e of all features together reaches its bound by chance at most once in `monitor.false_alarm_events`;
    the shares say which features do it. The index (PSI) is of the last 2,000 rows. Lately: what a feature's place and spread are
    now, of values mapped to [0, 1] by training (0.5 and 0.33 when nothing moved), and how often they changed.
    """
    with gateway.admin() as admin:
        found = admin.drift(route)
    if as_json:
        return output.show_json(found)
    shown = found.get("drift")
    if not isinstance(shown, dict):
        return typer.echo("no answer of the live version was seen yet")
    output.show_facts(
        {
            "version": shown.get("version"),
            "frozen by": None if shown.get("frozen_by") == "NONE" else shown.get("frozen_by"),
            **{name: _stands(part) for name, part in output.mapping(shown.get("against_training")).items()},
        }
    )
    columns: dict[str, output.Cell] = {
        "feature": lambda one: one.get("feature"),
        "share": lambda one: _number(one, "share", "{:.0%}"),
        "psi": lambda one: _number(one, "psi", "{:.3f}") + ("!" if one.get("is_breached") else ""),
        "bound": lambda one: _number(one, "psi_bound", "{:.3f}"),
        "place now": lambda one: _number(one, "value", "{:.3f}"),
        "spread now": lambda one: _number(one, "spread", "{:.3f}"),
        "changes": lambda one: one.get("alarms"),
        "without a place": _apart,
    }
    typer.echo()
    none = "nothing to compare with: register the version with --reference, or wait for its first 1,000 answers"
    output.show_table(output.objects(shown.get("features"))[:top], columns, empty=none)
    incidents: dict[str, output.Cell] = {
        "incident": lambda one: output.moment(one.get("opened_at_s")),
        "attribution": lambda one: one.get("attribution"),
        "subjects": lambda one: one.get("subjects"),
        "alarms": lambda one: one.get("alarms"),
        "why": lambda one: one.get("why"),
    }
    typer.echo()
    return output.show_table(output.objects(shown.get("incidents"))[-top:], incidents, empty="no incident")


def _stands(part: object) -> str:
    known = output.mapping(part)
    if not known or known.get("reference", 0.0) is None:
        return "learning from the first ones"
    log_e = known.get("log_e")
    level = "nothing" if log_e is None else f"log e {float(str(log_e)):.1f} of {float(str(known.get('bound'))):.1f}"
    return level + (", unlike the reference" if known.get("is_departed") else "")


def _number(one: Json, name: str, form: str) -> str:
    value = one.get(name)
    return form.format(value) if isinstance(value, int | float) else ""


def _apart(one: Json) -> str:
    shares = output.mapping(one.get("apart"))
    return ", ".join(f"{reason} {share:.1%}" for reason, share in shares.items() if isinstance(share, float) and share > 0.0)
