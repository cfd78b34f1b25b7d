"""The facts of a route's health: the monitor's picture, the workers' counts, the registry. `core/health.py` judges them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.control.calls import Answer, Call, Control
from gateway.control.monitored import object_of, of_route, picture
from gateway.control.propagation import statuses_of
from gateway.core.drift import MERGE_S
from gateway.core.fields import Json
from gateway.core.guardrails import Verdict
from gateway.core.health import (
    ColdFacts,
    DriftFacts,
    Health,
    Level,
    Part,
    RefusalFacts,
    RolloutFacts,
    RouteFacts,
    VersionFacts,
    health,
)
from gateway.core.records import Kind
from gateway.core.rollouts import Rollout
from gateway.core.routes import Route
from gateway.metrics.control import ROUTE_HEALTH, ROUTE_UNWELL
from gateway.ports.metrics import Sample

_UNWELL: Final = (Level.WARNING, Level.CRITICAL)


def show_health(control: Control, call: Call) -> Answer:
    """Return a route's health, part by part, the worst first."""
    name = call.path["route"]
    route = control.registry.table().route(name)
    rollout = next(iter(control.registry.rollouts(name, limit=1)), None)
    return Answer({"route": name, **seen_by(control, picture(control)).health(route, rollout).body()})


def health_samples(control: Control, rollouts: Mapping[str, Rollout]) -> Iterator[Sample]:
    """Yield each route's health, and its parts that are not well.

    Args:
        rollouts: The newest of each route.
    """
    seen = seen_by(control, picture(control))
    for route in routes_seen(control, seen):
        found = seen.health(route, rollouts.get(route.name))
        yield Sample(ROUTE_HEALTH.name, (("route", route.name),), float(found.level.value))
        for part in found.parts:
            if part.level in _UNWELL:
                yield Sample(ROUTE_UNWELL.name, (("route", route.name), ("part", part.name)), float(part.level.value))


def unwell(control: Control, readings: Json | None) -> Iterator[tuple[str, Part]]:
    """Yield each route with its parts that are not well, but for those whose health is unknown."""
    newest, seen = control.registry.newest_rollouts(), seen_by(control, readings)
    for route in routes_seen(control, seen):
        for part in seen.health(route, newest.get(route.name)).parts:
            if part.level in _UNWELL:
                yield route.name, part


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of all routes at one moment: by the monitor, and by the workers."""

    readings: Json | None
    refusals: Mapping[str, RefusalFacts]
    cold: Mapping[tuple[str, str], ColdFacts]
    now_s: float

    def health(self, route: Route, rollout: Rollout | None) -> Health:
        """Return the health of one route, whose newest rollout is given."""
        seen = of_route(self.readings, route.name)
        time_s = object_of((self.readings or {}).get("monitor")).get("time_s")
        return health(
            RouteFacts(
                age_s=max(0.0, self.now_s - time_s) if isinstance(time_s, int | float) and time_s else None,
                deadline_ms=route.deadline_ms,
                versions=tuple(_versions(seen, route)),
                refusals=self.refusals.get(route.name),
                cold=tuple(self.cold[key] for key in sorted(_answering(route)) if key in self.cold),
                drift=_drift(seen, time_s if isinstance(time_s, int | float) else 0.0),
                rollout=None if rollout is None else _rollout(seen, rollout, self.now_s),
            )
        )


def seen_by(control: Control, readings: Json | None) -> Seen:
    """Return what is known now, with what the monitor said."""
    return Seen(readings, control.refusals.facts(), _cold(control), control.clock.now_s())


def _cold(control: Control) -> dict[tuple[str, str], ColdFacts]:
    """Return what workers should hold warm and could not load, by (model, version), as they reported it last."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for worker, status in sorted(statuses_of(control).items()):
        for one in status.cold if worker in control.workers else ():
            found.setdefault((one.model, one.version), []).append((worker, one.reason))
    return {key: ColdFacts(key[1], tuple(worker for worker, _ in told), told[-1][1]) for key, told in found.items()}


def _answering(route: Route) -> set[tuple[str, str]]:
    return {(route.model, one.version) for one in route.variants}


def routes_seen(control: Control, seen: Seen) -> list[Route]:
    """Return every route, and every model that was called under its own name, or would have been had it not refused."""
    table = control.registry.table()
    called = (object_of((seen.readings or {}).get("routes")).keys() | seen.refusals.keys()) & table.champions.keys()
    return [table.route(name) for name in sorted(table.routes.keys() | called)]


def _versions(seen: Mapping[str, object], route: Route) -> Iterator[VersionFacts]:
    """Yield the versions that answer callers: what one that was taken away did in its last hour is the rollout's part."""
    answering = {(one.name, one.version) for one in route.variants}
    qualities = {(one.get("variant"), one.get("version")): one for one in _objects(object_of(seen.get("quality")), "versions")}
    for one in _objects(seen, "versions"):
        place = (one.get("variant"), one.get("version"))
        if one.get("kind") == Kind.LIVE.value and place in answering:
            quality = qualities.get(place, {})
            yield VersionFacts(
                version=str(one.get("version")),
                predictions=int(_number(one, "predictions") or 0),
                error_rate=_number(one, "error_rate"),
                latency_ms=_number(one, "latency_ms_mean"),
                truths=int(_number(quality, "truths") or 0),
                mean_loss=_number(quality, "mean_loss"),
            )


def _drift(route: Mapping[str, object], time_s: float) -> DriftFacts | None:
    """Return how a route's drift stood at a time of the log."""
    shown = object_of(route.get("drift"))
    if not shown:
        return None
    features = list(_objects(shown, "features"))
    rows = int(min((_number(one, "rows") or 0 for one in features), default=0))
    parts = object_of(shown.get("against_training"))
    return DriftFacts(
        rows=rows if all(one.get("is_judged") is True for one in features) else 0,
        features=len(features),
        over=tuple(str(one.get("feature")) for one in features if one.get("is_breached") is True),
        departed=tuple(name for name, one in parts.items() if object_of(one).get("is_departed") is True),
        incidents=tuple(
            str(one.get("why"))
            for one in _objects(shown, "incidents")
            if time_s - (_number(one, "last_at_s") or -math.inf) < MERGE_S
        ),
    )


def _rollout(route: Mapping[str, object], rollout: Rollout, now_s: float) -> RolloutFacts:
    return RolloutFacts(rollout.state, rollout.reason, _failed(route, rollout), now_s - rollout.changed_at_s)


def _failed(route: Mapping[str, object], rollout: Rollout) -> tuple[str, ...]:
    shown = object_of(route.get("rollout"))
    if object_of(shown.get("rollout")).get("id") != rollout.id:
        return ()
    return tuple(str(one.get("guardrail")) for one in _objects(shown, "findings") if one.get("verdict") == Verdict.FAIL.value)


def _objects(body: Mapping[str, object], name: str) -> Iterator[Mapping[str, object]]:
    found = body.get(name)
    yield from (object_of(one) for one in found) if isinstance(found, list) else ()


def _number(body: Mapping[str, object], name: str) -> float | None:
    value = body.get(name)
    return float(value) if isinstance(value, int | float) else None
