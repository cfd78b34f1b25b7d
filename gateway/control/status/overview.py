"""The first status page: whether anything needs attention, every route in a few lines, and the last changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from gateway.control.calls import Control
from gateway.control.health import routes_seen, seen_by
from gateway.control.monitored import evidence, object_of, of_route, picture
from gateway.control.status import parts
from gateway.control.status.frame import level_chip, route_path
from gateway.control.status.visits import PATH
from gateway.core.fields import Json
from gateway.core.health import Health, Level
from gateway.core.rollouts import Rollout
from gateway.core.routes import Route
from gateway.core.troubles import complaints
from gateway.drawing import words
from gateway.drawing.markup import Markup, joined, tag

ROUTES_MAX: Final = 50  # on a page: some 100 kB, and more than anybody reads in one go
CHANGES_MAX: Final = 10
UNWELL_MAX: Final = 20  # named above the list, wherever in it they stand
_UNWELL: Final = (Level.CRITICAL, Level.WARNING)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of one route."""

    route: Route
    health: Health
    rollout: Rollout | None
    readings: parts.Shown


def overview(control: Control, after: str) -> Markup:
    """Return the page's content: the routes by name after `after`.

    Raises:
        StoreFailed: the registry cannot be read.
    """
    readings, table, newest = picture(control), control.registry.table(), control.registry.newest_rollouts()
    known = seen_by(control, readings)
    routes = {one.name: one for one in routes_seen(control, known)}
    healths = {name: known.health(one, newest.get(name)) for name, one in routes.items()}
    shown = [name for name in routes if name > after][: ROUTES_MAX + 1]
    seen = [_Seen(routes[name], healths[name], newest.get(name), of_route(readings, name)) for name in shown[:ROUTES_MAX]]
    entries = control.registry.audit(limit=CHANGES_MAX, newest_first=True)
    return joined(
        tag("h1", _headline(healths)),
        tag("p", f"Table revision {table.revision}. {_automation(control)}", class_="quiet"),
        _troubles(readings, known.now_s),
        _unwell(healths),
        tag("h2", "Routes"),
        *map(_route, seen),
        tag("p", "No route and no called model yet: headgate models register creates the first.", class_="quiet")
        if not routes
        else None,
        _pages(shown, after),
        tag("h2", "Last changes"),
        parts.changes(entries, empty="nothing was changed yet"),
    )


def _headline(healths: dict[str, Health]) -> str:
    counts = Counter(one.level for one in healths.values())
    of = "1 route" if len(healths) == 1 else f"{len(healths):,} routes"
    if not healths:
        return "No routes yet"
    named = [f"{counts[level]:,} {level.name.lower()}" for level in (*_UNWELL, Level.UNKNOWN) if counts[level]]
    return f"{of}, all well" if not named else f"{of}: {', '.join(named)}"


def _automation(control: Control) -> str:
    return "Automation is on." if control.registry.automation().is_on else "Automation is off: nothing changes by itself."


def _troubles(readings: Json | None, now_s: float) -> Markup:
    found = complaints(readings, now_s=now_s)
    if found:
        return tag("div", *(tag("p", one.reason) for one in found), class_="alarm")
    lag_s = words.found(object_of((readings or {}).get("monitor")), "lag_s")
    return tag("p", f"The monitor is well, {words.number(lag_s, '.1f')} s behind the log.", class_="quiet")


def _unwell(healths: dict[str, Health]) -> Markup | None:
    order = {level: rank for rank, level in enumerate(_UNWELL)}
    names = sorted(
        (name for name, one in healths.items() if one.level in order), key=lambda name: (order[healths[name].level], name)
    )
    if len(names) <= 1 and len(healths) <= ROUTES_MAX:
        return None  # the list says it
    links = [
        tag("span", level_chip(healths[name].level), " ", tag("a", name, href=route_path(name))) for name in names[:UNWELL_MAX]
    ]
    rest = f"and {len(names) - UNWELL_MAX:,} more" if len(names) > UNWELL_MAX else None
    return tag("p", *links, rest, class_="legend") if names else None


def _route(seen: _Seen) -> Markup:
    title = tag("h3", tag("a", seen.route.name, href=route_path(seen.route.name)))
    about = "" if seen.route.model == seen.route.name else f"model {seen.route.model}, "
    left = tag(
        "div",
        title,
        tag("p", level_chip(seen.health.level)),
        tag("p", f"{about}revision {seen.route.revision}", class_="quiet small"),
    )
    right = tag("div", parts.split(seen.route), *_worst(seen.health), *_rollout(seen), *_drift(seen.readings))
    return tag("section", left, right, class_="route", aria_label=seen.route.name)


def _worst(health: Health) -> list[Markup]:
    return [tag("p", f"{one.name}: {one.evidence}", class_="alarm") for one in health.parts if one.level in _UNWELL]


def _rollout(seen: _Seen) -> list[Markup]:
    rollout = seen.rollout
    if rollout is None or not rollout.is_watched:
        return []
    found = parts.objects(evidence({"routes": {rollout.route: dict(seen.readings)}}, rollout), "findings")
    line = tag(
        "p",
        f"Rollout of version {rollout.challenger}: {rollout.state.value}, step {rollout.step + 1} of {len(rollout.plan.steps)}",
    )
    worst = parts.furthest(found)
    return (
        [line]
        if worst is None
        else [line, tag("p", parts.evidence(worst), tag("span", f" {worst.get('guardrail')}", class_="quiet"))]
    )


def _drift(readings: parts.Shown) -> list[Markup]:
    features: Sequence[parts.Shown] = parts.objects(object_of(readings.get("drift")), "features")
    if not features:
        return []
    return [tag("p", parts.shift(features[0]), tag("span", f" {words.shortened(features[0].get('feature'))}", class_="quiet"))]


def _pages(shown: Sequence[str], after: str) -> Markup | None:
    first = tag("a", "first page", href=PATH) if after else None
    more = (
        tag("a", "next page", href=f"{PATH}?after={quote(shown[ROUTES_MAX - 1], safe='')}") if len(shown) > ROUTES_MAX else None
    )
    return tag("nav", first, more, class_="pages", aria_label="Pages") if first or more else None
