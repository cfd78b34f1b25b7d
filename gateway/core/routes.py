"""Routes and the route table: public name → variants, weights, shadows, assignment key. Immutable values.

A route's body is what the admin API reads and shows; the rest of a `Route` (revision, salt, slot owners) the registry adds.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NewType

from gateway.core.errors import MalformedRequest, UnknownRoute
from gateway.core.fields import NAME_LENGTH_MAX, Fields, Json, checked_name
from gateway.core.models import Version
from gateway.core.split import SLOTS, Owners, assign_slots

Revision = NewType("Revision", int)
VARIANTS_MAX: Final = 20  # more versions at once than anyone compares; bounds label sets
SHADOWS_MAX: Final = 5  # each shadow costs a full prediction
DEADLINE_MS: Final = 5_000  # of a route that names none
DEADLINE_MS_MAX: Final = 600_000
DROPPED_MAX: Final = 1_000  # a worker that missed more lets what nobody calls go when it needs the room
_CHAMPION_OWNS: Final[Owners] = ("champion",) * SLOTS  # 80 kB; one for all models without a route
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2; no request can carry another


class AssignmentSource(enum.Enum):
    """Where the assignment key of a request is read."""

    HEADER = "header"
    PARAMETER = "parameter"
    INPUT = "input"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where the key is read, and the header's, parameter's or input's name."""

    source: AssignmentSource = AssignmentSource.HEADER
    name: str = "gateway-assignment-key"


class DriftAction(enum.Enum):
    """What a drift alarm of the live version does."""

    NOTIFY = "notify"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Variant:
    """One version's place among the live ones; `weight` is out of `SLOTS`."""

    name: str
    version: str
    weight: int


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets a copy of a fraction, in (0, 1], of the route's requests."""

    name: str
    version: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Route:
    """A public name and what answers under it.

    Attributes:
        fallback: The variant that answers when the assigned one fails hard; by default the first.
        deadline_ms: Of a request, from its last byte in to the answer.
        needs_approval: Whether a promotion on the route needs a person with the scope `approve`.
        team: Who answers for the route, by which notices find their channel; or empty.
        salt: Of the split; a new rollout sets a new one.
        owners: The owner of each slot.
        last_good: Variants that a rollback restores; kept warm.
        rollout: The id of the rollout in progress, or empty.
    """

    name: str
    model: str
    variants: tuple[Variant, ...]
    shadows: tuple[Shadow, ...] = ()
    assignment: Assignment = Assignment()
    fallback: str = ""
    deadline_ms: int = DEADLINE_MS
    drift_action: DriftAction = DriftAction.NOTIFY
    needs_approval: bool = False
    team: str = ""
    salt: str = ""
    owners: Owners = ()
    last_good: tuple[Variant, ...] = ()
    rollout: str = ""
    revision: Revision = Revision(0)

    def variant(self, name: str) -> Variant | None:
        """Return the live variant of that name."""
        return next((variant for variant in self.variants if variant.name == name), None)

    def needs(self) -> tuple[str, ...]:
        """Return every version a worker must hold warm for this route, without repeats."""
        wanted = [place.version for place in (*self.variants, *self.last_good)] + [shadow.version for shadow in self.shadows]
        return tuple(dict.fromkeys(wanted))


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes at once.

    Attributes:
        revision: Grows by one with every commit that touches a route, a champion or a version; it only orders propagation.
        champions: model → version that answers when a model is called by name and has no route.
        versions: (model, version) → what is known of it; every version that a route, a champion or a hold needs.
        holds: (model, version) of what every worker keeps warm because an operator wants it → the revision that said so last.
        dropped: (model, version) of what was last let go of → the revision that did; at most `DROPPED_MAX`.
    """

    revision: Revision = Revision(0)
    routes: Mapping[str, Route] = field(default_factory=dict)
    champions: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[tuple[str, str], Version] = field(default_factory=dict)
    holds: Mapping[tuple[str, str], Revision] = field(default_factory=dict)
    dropped: Mapping[tuple[str, str], Revision] = field(default_factory=dict)

    def knows(self, name: str) -> bool:
        """Return whether `route` finds something by that name."""
        return name in self.routes or name in self.champions

    def route(self, name: str) -> Route:
        """Return the route of that name, or the one a champion implies.

        Raises:
            UnknownRoute: neither a route nor a model has that name.
        """
        if (route := self.routes.get(name)) is not None:
            return route
        if (champion := self.champions.get(name)) is not None:
            return champion_route(name, champion)
        raise UnknownRoute(f"Request for unknown model: {name!r} is not found")


def champion_route(model: str, version: str) -> Route:
    """Return the route a model has while nobody made one: its champion answers everything."""
    variants = (Variant("champion", version, SLOTS),)
    return Route(name=model, model=model, variants=variants, fallback="champion", owners=_CHAMPION_OWNS, last_good=variants)


def with_weights(route: Route, variants: tuple[Variant, ...]) -> Route:
    """Return the route with other variants or weights, moving as few slots as possible.

    Raises:
        MalformedRequest: names repeat, or the weights do not sum to `SLOTS`.
    """
    checked_variants(variants)
    weights = [(variant.name, variant.weight) for variant in variants]
    return replace(route, variants=variants, owners=assign_slots(weights, route.owners or None))


def checked_variants(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Return the variants if their names differ and their weights sum to `SLOTS`."""
    names = [variant.name for variant in variants]
    if len(set(names)) != len(names):
        raise MalformedRequest("route.variants: two variants have the same name")
    total = sum(variant.weight for variant in variants)
    if total != SLOTS:
        raise MalformedRequest(f"route.variants: weights are integers that sum to {SLOTS:,}; these sum to {total:,}")
    return variants


def route_from_body(name: str, body: object) -> Route:
    """Read a route's body as `PUT` sends it; revision, salt and owners are left empty.

    Raises:
        MalformedRequest: a field is unknown, missing or wrong; names repeat; weights do not sum to 10,000; no request
            can carry the assignment's header.
    """
    route = _read(name, body)
    if route.team:
        checked_name(route.team, "route.team")
    if route.assignment.source is AssignmentSource.HEADER and not _HEADER_NAME.fullmatch(route.assignment.name):
        raise MalformedRequest("route.assignment.header: expected a header's name: ASCII letters, digits and hyphens")
    return route


def _read(name: str, body: object) -> Route:
    fields = Fields(body, "route")
    variants = checked_variants(tuple(_variant(item, at) for at, item in enumerate(fields.items("variants", VARIANTS_MAX))))
    route = Route(
        name=name,
        model=fields.name("model", name),
        variants=variants,
        shadows=tuple(_shadow(item, at) for at, item in enumerate(fields.items("shadows", SHADOWS_MAX, ()))),
        assignment=_assignment(fields.value("assignment")),
        fallback=fields.text("fallback", "", length_max=200) or variants[0].name,
        deadline_ms=fields.integer("deadline_ms", 1, DEADLINE_MS_MAX, DEADLINE_MS),
        drift_action=fields.choice("drift_action", DriftAction, DriftAction.NOTIFY),
        needs_approval=fields.boolean("needs_approval", False),
        team=fields.text("team", "", length_max=NAME_LENGTH_MAX),
    )
    for shown in ("revision", "salt", "rollout", "last_good"):  # what GET shows may be sent back unchanged
        fields.value(shown)
    if fields.text("name", name) != name:
        raise MalformedRequest(f"route.name: expected {name!r}, the name of the route that is written")
    fields.done()
    _refuse_loose_names(route)
    return route


def route_body(route: Route) -> Json:
    """Return a route as the admin API shows it; `PUT` accepts it back."""
    return {
        "name": route.name,
        "model": route.model,
        "variants": [{"name": v.name, "version": v.version, "weight": v.weight} for v in route.variants],
        "shadows": [{"name": s.name, "version": s.version, "fraction": s.fraction} for s in route.shadows],
        "assignment": {route.assignment.source.value: route.assignment.name},
        "fallback": route.fallback,
        "deadline_ms": route.deadline_ms,
        "drift_action": route.drift_action.value,
        "needs_approval": route.needs_approval,
        "team": route.team,
        "rollout": route.rollout,
        "last_good": [{"name": v.name, "version": v.version, "weight": v.weight} for v in route.last_good],
        "salt": route.salt,
        "revision": route.revision,
    }


def stored_route(body: object, owners: Owners) -> Route:
    """Read back what the registry stored: `route_body` and the owners of the slots; what was taken once is taken again."""
    fields = Fields(body, "route")
    public = {k: v for k, v in fields_of(body).items() if k not in ("revision", "salt", "rollout", "last_good")}
    return replace(
        _read(fields.text("name"), public),
        rollout=fields.text("rollout", ""),
        salt=fields.text("salt", ""),
        last_good=tuple(_variant(item, at) for at, item in enumerate(fields.items("last_good", VARIANTS_MAX, ()))),
        revision=Revision(fields.integer("revision", 0, 1 << 62)),
        owners=owners,
    )


def fields_of(body: object) -> Json:
    """Return a body known to be an object."""
    assert isinstance(body, dict)
    return body


def _variant(body: object, at: int) -> Variant:
    fields = Fields(body, f"route.variants[{at}]")
    variant = Variant(fields.name("name"), fields.name("version"), fields.integer("weight", 0, SLOTS))
    fields.done()
    return variant


def _shadow(body: object, at: int) -> Shadow:
    fields = Fields(body, f"route.shadows[{at}]")
    shadow = Shadow(fields.name("name"), fields.name("version"), fields.number("fraction", 1e-6, 1.0, 1.0))
    fields.done()
    return shadow


def _assignment(body: object) -> Assignment:
    if body is None:
        return Assignment()
    fields = Fields(body, "route.assignment")
    named = [source for source in AssignmentSource if fields.has(source.value)]
    if len(named) != 1:
        raise MalformedRequest("route.assignment: expected exactly one of header, parameter, input")
    assignment = Assignment(named[0], fields.text(named[0].value, length_max=200))
    fields.done()
    if not assignment.name.strip():
        raise MalformedRequest(f"route.assignment.{named[0].value}: expected a name")
    if assignment.source is AssignmentSource.HEADER:
        return replace(assignment, name=assignment.name.lower())
    return assignment


def _refuse_loose_names(route: Route) -> None:
    names = {variant.name for variant in route.variants}
    if route.fallback not in names:
        raise MalformedRequest(f"route.fallback: {route.fallback!r} is not among the variants")
    shadows = [shadow.name for shadow in route.shadows]
    if names & set(shadows) or len(set(shadows)) != len(shadows):
        raise MalformedRequest("route.shadows: names differ from each other and from the variants' names")
