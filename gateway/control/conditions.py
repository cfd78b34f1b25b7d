"""Conditions that people are told of: routes that are unwell, a monitor that is silent or behind, a fleet rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.control.calls import Control
from gateway.control.health import unwell
from gateway.control.monitored import fleet, object_of
from gateway.control.notifier import Condition
from gateway.core.health import SILENT_MAX_S, Level
from gateway.core.notices import Severity
from gateway.core.troubles import LAG_S

_SEVERITIES: Final = {Level.WARNING: Severity.WARNING, Level.CRITICAL: Severity.CRITICAL}
_ROLLOUT: Final = "rollout"  # a part of a route's health that the audit log tells of already


def conditions(control: Control) -> Iterator[Condition]:
    """Yield what lasts now, from the registry and the monitor's last picture.

    Raises:
        StoreFailed: the registry cannot be read.
    """
    for route, part in unwell(control):
        if part.name != _ROLLOUT:
            what = f"{part.name} of route {route}: {part.evidence}"
            yield Condition(f"health:{route}:{part.name}", _SEVERITIES[part.level], route, what)
    yield from _of_monitor(control)


def _of_monitor(control: Control) -> Iterator[Condition]:
    monitor = object_of((control.readings.latest() or {}).get("monitor"))
    time_s, lag_s = monitor.get("time_s"), monitor.get("lag_s")
    if not isinstance(time_s, int | float) or not isinstance(lag_s, int | float) or not time_s:
        return  # it has not begun
    silent_s = control.clock.now_s() - time_s - lag_s
    if silent_s > SILENT_MAX_S:
        what = f"the monitor has shown nothing for {silent_s:.0f} s: no version is rolled back meanwhile"
        yield Condition("monitor:silent", Severity.CRITICAL, "", what)
        return
    if reason := fleet(control.readings.latest()).reason:
        what = f"nothing is raised by itself: {reason}; look for what they share"
        yield Condition("fleet:suspended", Severity.CRITICAL, "", what)
    if lag_s > LAG_S:
        yield Condition("monitor:lag", Severity.WARNING, "", f"the monitor is {lag_s:.0f} s behind the log")
    rate = object_of(monitor.get("sampling")).get("rate")
    if isinstance(rate, float) and rate < 1.0:
        what = f"more comes than the monitor's budget: it looks at {rate:.0%} of it"
        yield Condition("monitor:sampled", Severity.WARNING, "", what)
