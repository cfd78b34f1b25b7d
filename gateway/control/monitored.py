"""What the monitor publishes: of itself, and by route drift, realised quality, a rollout's evidence.

A picture only: whether it is there, and how old it is, changes no decision.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.control.calls import Answer, Call, Control
from gateway.core.errors import PortFault
from gateway.core.fields import Json
from gateway.core.rollouts import Rollout
from gateway.core.trouble import FleetReading
from gateway.core.troubles import Trouble, complaints


def picture(control: Control) -> Json | None:
    """Return the monitor's last picture; one that cannot be read, as power loss may leave it, is as good as none."""
    try:
        return control.readings.latest()
    except PortFault:
        return None


def monitor(control: Control, _: Call) -> Answer:
    """Return how the monitor itself is."""
    readings = picture(control)
    found = complaints(readings, now_s=control.clock.now_s())
    shown = object_of((readings or {}).get("monitor"))
    return Answer({"is_well": not found, "complaints": [one.body() for one in found], **shown})


def drift(control: Control, call: Call) -> Answer:
    """Return what moved in a route's inputs."""
    return _shown(control, call, ("drift",))


def quality(control: Control, call: Call) -> Answer:
    """Return a route's realised metrics by version: losses where ground truth came, rates and latency for all."""
    return _shown(control, call, ("quality", "versions"))


def evidence(readings: Json | None, rollout: Rollout) -> Json:
    """Return what the monitor last published of a rollout; empty when it shows another one or none."""
    shown = dict(object_of(of_route(readings, rollout.route).get("rollout")))
    if object_of(shown.pop("rollout", None)).get("id") != rollout.id:
        return {}
    return shown


def waited_for(control: Control) -> list[str]:
    """Return why a rollout's clock stands still for the monitor's own sake, in sentences; nothing while it keeps up."""
    found = complaints(picture(control), now_s=control.clock.now_s())
    return [f"Its clock waits: {one.reason}." for one in found if one.trouble in (Trouble.SILENT, Trouble.BEHIND)]


def fleet(readings: Json | None) -> FleetReading:
    """Return whether rollbacks of many routes keep the gateway from raising anything, as the monitor last showed it."""
    shown = object_of(object_of((readings or {}).get("monitor")).get("fleet"))
    return FleetReading.from_body(shown) if shown else FleetReading()


def _shown(control: Control, call: Call, parts: tuple[str, ...]) -> Answer:
    name = call.path["route"]
    control.registry.table().route(name)  # a route without readings is known; a misspelt one is not
    readings = picture(control)
    shown, route = object_of((readings or {}).get("monitor")), of_route(readings, name)
    return Answer(
        {
            "route": name,
            "published_at_s": shown.get("time_s"),
            "lag_s": shown.get("lag_s"),
            **{part: route.get(part) for part in parts},
        }
    )


def of_route(readings: Json | None, name: str) -> Mapping[str, object]:
    """Return what the readings say of a route; empty when they say nothing."""
    return object_of(object_of((readings or {}).get("routes")).get(name))


def object_of(value: object) -> Mapping[str, object]:
    """Return a value of the readings that is an object; empty when it is something else."""
    return value if isinstance(value, dict) else {}
