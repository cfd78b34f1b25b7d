"""`routes` and `rollback`: which versions answer under a public name, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands import output
from gateway.commands.session import Gateway, JsonOption, ReasonOption, RouteArgument, examples, fail, reaches
from gateway.core.fields import Json

if TYPE_CHECKING:
    from gateway.client import AdminClient

group = typer.Typer(help="Public names, and the versions that answer under them.", no_args_is_help=True)
_NOT_FOUND = 404
RevisionOption = Annotated[
    int | None,
    typer.Option(min=0, help="Change it only while it has this revision (0: must not exist); the present one by default."),
]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="routes")
    app.command(epilog=examples("headgate rollback delays --reason 'late flights all predicted on time'"))(rollback)


@group.command("list", epilog=examples("headgate routes list", "headgate routes list --json"))
@reaches
def list_routes(gateway: Gateway, as_json: JsonOption = False) -> None:
    """List routes with their split and shadows."""
    with gateway.admin() as admin:
        routes = list(admin.routes())
    if as_json:
        return output.show_json(routes)
    columns: dict[str, output.Cell] = {
        "route": lambda route: route.get("name"),
        "model": lambda route: route.get("model"),
        "revision": lambda route: route.get("revision"),
        "variants": lambda route: [_variant(variant) for variant in output.objects(route.get("variants"))],
        "shadows": lambda route: [_shadow(shadow) for shadow in output.objects(route.get("shadows"))],
        "rollout": lambda route: route.get("rollout"),
    }
    return output.show_table(routes, columns, empty="no routes; a model without one answers with its champion")


@group.command(epilog=examples("headgate routes show delays", "headgate routes show delays --json > delays.json"))
@reaches
def show(gateway: Gateway, route: RouteArgument, as_json: JsonOption = False) -> None:
    """Show one route."""
    with gateway.admin() as admin:
        found = admin.route(route)
    return output.show_json(found) if as_json else _show(found)


@group.command(
    "set",
    epilog=examples(
        "headgate routes set delays --variant champion=1:9000 --variant challenger=2:1000 --shadow s3=3:0.5 --deadline-ms 500",
        "headgate routes set delays --variant champion=1:5000 --variant challenger=2:5000 --reason 'a week without complaints'",
        "headgate routes set delays --file delays.json",
    ),
)
@reaches
def set_route(
    gateway: Gateway,
    route: RouteArgument,
    *,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VERSION:WEIGHT", help="All live variants; weights sum to 10000. Repeat."),
    ] = None,
    shadow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VERSION:FRACTION", help="All shadows; each gets a copy of this fraction of requests. Repeat."),
    ] = None,
    no_shadows: Annotated[bool, typer.Option("--no-shadows", help="Take every shadow off.")] = False,
    model: Annotated[str | None, typer.Option(help="The model; the route's own name by default.")] = None,
    assign_header: Annotated[str | None, typer.Option(metavar="NAME", help="Read the assignment key from this header.")] = None,
    assign_parameter: Annotated[str | None, typer.Option(metavar="NAME", help="… from this request parameter.")] = None,
    assign_input: Annotated[str | None, typer.Option(metavar="NAME", help="… from this input column.")] = None,
    fallback: Annotated[str | None, typer.Option(help="The variant that answers when another fails.")] = None,
    deadline_ms: Annotated[int | None, typer.Option(min=1, help="Of a request.")] = None,
    drift_action: Annotated[str | None, typer.Option(help="notify, or rollback on a drift alarm of the live version.")] = None,
    needs_approval: Annotated[
        bool | None,
        typer.Option("--approval/--no-approval", help="Whether a promotion needs a person with the scope `approve`."),
    ] = None,
    team: Annotated[str | None, typer.Option(help="Who answers for the route; notices may go by it.")] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The route's whole body as JSON; options win over it.")
    ] = None,
    revision: RevisionOption = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Create a route, or change what is named of it; the rest stays as it is.

    Returns when every worker answers with the new table. Nobody changes variant who need not: only the keys that the weights
    move.
    """
    with gateway.admin() as admin:
        present = _present(admin, route)
        body = _body(file) if file is not None else dict(present)
        if revision is None:
            known = body.get("revision", present.get("revision", 0))
            revision = known if isinstance(known, int) else 0
        changes: dict[str, object] = {
            "variants": None if not variant else [_placed(text, "--variant", "weight", int) for text in variant],
            "shadows": [] if no_shadows else None if not shadow else [_placed(t, "--shadow", "fraction", float) for t in shadow],
            "model": model,
            "assignment": _assignment(header=assign_header, parameter=assign_parameter, input=assign_input),
            "fallback": fallback,
            "deadline_ms": deadline_ms,
            "drift_action": drift_action,
            "needs_approval": needs_approval,
            "team": team,
        }
        body |= {name: value for name, value in changes.items() if value is not None}
        if variant and fallback is None and body.get("fallback") not in _names(body.get("variants")):
            body.pop("fallback", None)  # the old one is gone; the gateway takes the first
        result = admin.put_route(route, body, if_match=revision, reason=reason)
        if as_json:
            return output.show_json(result)
        _tell(f"route {route}", result)
        return _show(admin.route(route))


@group.command(epilog=examples("headgate routes delete delays --reason 'moved to delays-eu'"))
@reaches
def delete(
    gateway: Gateway,
    route: RouteArgument,
    revision: RevisionOption = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Remove a route. Its model's champion answers under the model's name again."""
    with gateway.admin() as admin:
        if revision is None:
            revision = int(str(admin.route(route).get("revision")))
        result = admin.delete_route(route, if_match=revision, reason=reason)
    return output.show_json(result) if as_json else typer.echo(f"deleted route {route}")


@reaches
def rollback(gateway: Gateway, route: RouteArgument, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Put a route back to its last good table at once; an open rollout ends with it. Needs a reason."""
    with gateway.admin() as admin:
        result = admin.rollback(route, reason=reason)
        if as_json:
            return output.show_json(result)
        _tell(f"route {route} rolled back", result)
        return _show(admin.route(route))


def _present(admin: AdminClient, route: str) -> Json:
    """Return the route's body, or an empty one when there is no such route."""
    from gateway.client import RequestFailed

    try:
        return admin.route(route)
    except RequestFailed as error:
        if error.status != _NOT_FOUND:
            raise
        return {}


def _body(path: Path) -> Json:
    try:
        body = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        fail(f"{path}: {error}")
    if not isinstance(body, dict):
        fail(f"{path}: expected a JSON object")
    return body


def _placed(text: str, option: str, amount_name: str, kind: type[int] | type[float]) -> Json:
    name, equals, place = text.partition("=")
    version, colon, amount = place.rpartition(":")
    try:
        number = kind(amount) if name and equals and version and colon else None
    except ValueError:
        number = None
    if number is None:
        raise typer.BadParameter(f"{text!r} is not NAME=VERSION:{amount_name.upper()}", param_hint=option)
    return {"name": name, "version": version, amount_name: number}


def _assignment(**given: str | None) -> Json | None:
    named: Json = {source: name for source, name in given.items() if name is not None}
    if len(named) > 1:
        raise typer.BadParameter("give one of --assign-header, --assign-parameter and --assign-input")
    return named or None


def _names(places: object) -> set[object]:
    return {place.get("name") for place in output.objects(places)}


def _tell(what: str, result: Json) -> None:
    """Say which revision it has now, and which workers do not answer with it yet."""
    workers, table = output.mapping(result.get("workers")), int(str(result.get("table_revision", 0)))
    behind = [name for name, revision in workers.items() if not isinstance(revision, int) or revision < table]
    told = f"not yet answering with it: {', '.join(behind)}" if behind else f"{len(workers)} worker(s) answer with it"
    typer.echo(f"{what}: revision {result.get('revision')}, {told}")


def _show(route: Json) -> None:
    output.show_facts(
        {
            "route": route.get("name"),
            "model": route.get("model"),
            "revision": route.get("revision"),
            "variants": [_variant(variant) for variant in output.objects(route.get("variants"))],
            "shadows": [_shadow(shadow) for shadow in output.objects(route.get("shadows"))],
            "assignment": " ".join(f"{source} {name}" for source, name in output.mapping(route.get("assignment")).items()),
            "fallback": route.get("fallback"),
            "deadline": f"{route.get('deadline_ms')} ms",
            "drift action": route.get("drift_action"),
            "needs approval": route.get("needs_approval"),
            "team": route.get("team"),
            "rollout": route.get("rollout"),
            "last good": [_variant(variant) for variant in output.objects(route.get("last_good"))],
        }
    )


def _variant(variant: Json) -> str:
    weight = variant.get("weight")
    return f"{variant.get('name')}={variant.get('version')} {weight / 100:g} %" if isinstance(weight, int) else ""


def _shadow(shadow: Json) -> str:
    fraction = shadow.get("fraction")
    return (
        f"{shadow.get('name')}={shadow.get('version')} {fraction * 100:g} % copied" if isinstance(fraction, int | float) else ""
    )
