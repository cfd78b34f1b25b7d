"""Conditions that people are told of: routes that are unwell, a monitor that is not, a fleet rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.control.calls import Control
from gateway.control.health import unwell
from gateway.control.monitored import fleet, picture
from gateway.core.fields import Json
from gateway.core.health import Level
from gateway.core.notices import Condition, Severity
from gateway.core.troubles import SILENT_S, Trouble, complaints

_SEVERITIES: Final = {Level.WARNING: Severity.WARNING, Level.CRITICAL: Severity.CRITICAL}
_ROLLOUT: Final = "rollout"  # a part of a route's health that the audit log tells of already


def conditions(control: Control, *, listened_s: float) -> Iterator[Condition]:
    """Yield what lasts now, from the registry and the monitor's last picture.

    Args:
        listened_s: How long this process has; who has just begun finds no picture, or one of before it was stopped.

    Raises:
        StoreFailed: the registry cannot be read.
    """
    readings = picture(control)
    yield from _of_monitor(control, readings, listened_s)
    for route, part in unwell(control, readings):
        if part.name != _ROLLOUT:
            what = f"{part.name} of route {route}: {part.evidence}"
            yield Condition(f"health:{route}:{part.name}", _SEVERITIES[part.level], route, what)


def _of_monitor(control: Control, readings: Json | None, listened_s: float) -> Iterator[Condition]:
    found = {one.trouble: one.reason for one in complaints(readings, now_s=control.clock.now_s())}
    if (silent := found.pop(Trouble.SILENT, "")) and listened_s > SILENT_S:
        yield Condition("monitor:silent", Severity.CRITICAL, "", silent)
    for trouble, reason in found.items():
        yield Condition(f"monitor:{trouble.value}", Severity.WARNING, "", reason)
    if not silent and (reason := fleet(readings).reason):
        what = f"nothing is raised by itself: {reason}; look for what they share"
        yield Condition("fleet:suspended", Severity.CRITICAL, "", what)
