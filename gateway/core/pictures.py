"""The pictures of several monitor processes as one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.core.fields import Json
from gateway.core.trouble import FleetBreaker

_SUMMED: Final = ("records", "late", "unplaced")


def joined(pictures: Mapping[str, Json | None]) -> Json | None:
    """Return the picture of all processes, or None when none has shown any.

    Of the monitor itself it says the worst: the oldest picture, the furthest behind, the least share; counts are summed.
    `monitor.processes` has each process by itself, null for one that has shown nothing, and a route says whose it is.

    Args:
        pictures: As `monitor/picture.py` made them, by process.
    """
    shown = {process: picture for process, picture in pictures.items() if picture is not None}
    if not shown:
        return None
    monitors = {process: _object(picture.get("monitor")) for process, picture in shown.items()}
    first = next(iter(shown.values()))
    routes: Json = {
        name: {**_object(route), "process": process}
        for process, picture in shown.items()
        for name, route in _object(picture.get("routes")).items()
    }
    return {
        **first,
        "monitor": {
            **_object(first.get("monitor")),
            **{name: _least(monitors, name) for name in ("published_at_s", "time_s")},
            "lag_s": max(_number(one.get("lag_s")) for one in monitors.values()),
            **{name: sum(_number(one.get(name)) for one in monitors.values()) for name in _SUMMED},
            "cursor": _cursor(monitors),
            "truth": _sums(monitors, "truth"),
            "sampling": {**_sums(monitors, "sampling"), "rate": _rate(monitors)},
            "fleet": _fleet(monitors),
            "processes": {process: _shown(pictures[process]) for process in pictures},
        },
        "routes": dict(sorted(routes.items())),
    }


def _shown(picture: Json | None) -> Json | None:
    if picture is None:
        return None
    monitor = _object(picture.get("monitor"))
    names = ("published_at_s", "lag_s", "records", "sampling")
    return {"routes": len(_object(picture.get("routes"))), **{name: monitor.get(name) for name in names}}


def _least(monitors: Mapping[str, Mapping[str, object]], name: str) -> float:
    return min(_number(one.get(name)) for one in monitors.values())


def _rate(monitors: Mapping[str, Mapping[str, object]]) -> float:
    return min(_number(_object(one.get("sampling")).get("rate")) for one in monitors.values())


def _cursor(monitors: Mapping[str, Mapping[str, object]]) -> Json:
    """Return how far all of them have gone."""
    cursors = [_object(one.get("cursor")) for one in monitors.values()]
    return {stream: min(_number(cursor.get(stream)) for cursor in cursors) for stream in cursors[0]}


def _sums(monitors: Mapping[str, Mapping[str, object]], part: str) -> Json:
    parts = [_object(one.get(part)) for one in monitors.values()]
    return {name: sum(_number(one.get(name)) for one in parts) for name in parts[0]}


def _fleet(monitors: Mapping[str, Mapping[str, object]]) -> Json:
    """Return where the breaker of all routes stands: each process knows for certain of its own rollbacks alone."""
    fleets = [_object(one.get("fleet")) for one in monitors.values()]
    breaker = FleetBreaker()
    at_s = [(_number(at), name) for fleet in fleets for name, at in _object(fleet.get("rolled_back_at_s")).items()]
    for time_s, name in sorted(at_s):
        breaker.observe(name, time_s)
    routes = max(int(_number(fleet.get("routes"))) for fleet in fleets)
    now_s = max(_number(one.get("time_s")) for one in monitors.values())
    return {**breaker.reading(routes, now_s).body(), "rolled_back_at_s": breaker.state(), "routes": routes}


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int | float:
    return value if isinstance(value, int | float) else 0
