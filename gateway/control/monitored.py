"""What the monitor publishes, shown by route: drift, realised quality, a rollout's evidence.

A picture only: whether it is there, and how old it is, changes no decision.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.control.calls import Answer, Call, Control
from gateway.core.fields import Json
from gateway.core.rollouts import Rollout


def drift(control: Control, call: Call) -> Answer:
    """Return the readings of a route's inputs."""
    return _shown(control, call, "drift")


def quality(control: Control, call: Call) -> Answer:
    """Return the realised metrics of a route by version."""
    return _shown(control, call, "quality")


def evidence(readings: Json | None, rollout: Rollout) -> Json:
    """Return what the monitor last published of a rollout; empty when it has not seen it."""
    return dict(_object(_of_route(readings, rollout.route).get("evidence")))


def _shown(control: Control, call: Call, part: str) -> Answer:
    name = call.path["route"]
    control.registry.table().route(name)  # a route without readings is known; a misspelt one is not
    readings = control.readings.latest()
    shown = _of_route(readings, name).get(part)
    return Answer({"route": name, "published_at_s": (readings or {}).get("time_s"), part: shown})


def _of_route(readings: Json | None, name: str) -> Mapping[str, object]:
    return _object(_object((readings or {}).get("routes")).get(name))


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
