"""Whether the monitor is well, from what it last published of itself. Pure; whoever shows it brings the time."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.fields import Json
from gateway.core.sampling import share_shown

SILENT_S: Final = 30.0  # since it published anything; that is each second, and a large checkpoint may hold it back for some
LAG_S: Final = 30.0  # as the alert MonitorBehind; half a second is usual


class Trouble(enum.Enum):
    """What can be wrong with the monitor."""

    SILENT = "silent"  # it does not publish
    BEHIND = "behind"  # decisions come late
    SAMPLED = "sampled"  # more comes than its budget, so it looks at a share
    MISSED_DRILL = "missed_drill"  # made-up harm was not found, last time
    FALSE_ALARMS = "false_alarms"  # A/A drills find too much


@dataclass(frozen=True, slots=True)
class Complaint:
    """One trouble, in a sentence that says what it means."""

    trouble: Trouble
    reason: str

    def body(self) -> Json:
        """Return the complaint as it is shown."""
        return {"trouble": self.trouble.value, "reason": self.reason}


def complaints(picture: Json | None, *, now_s: float) -> list[Complaint]:
    """Return what is wrong with the monitor; nothing when it is well.

    Args:
        picture: As `monitor/picture.py` made it; None when there is none.
        now_s: Wall time, seconds since the epoch.
    """
    if picture is None:
        return [Complaint(Trouble.SILENT, "the monitor has published nothing yet")]
    monitor = _object(picture.get("monitor"))
    if unseen := [name for name, shown in _object(monitor.get("processes")).items() if shown is None]:
        return [Complaint(Trouble.SILENT, f"{', '.join(unseen)} has published nothing yet: its routes are not decided on")]
    age_s = now_s - _number(monitor.get("published_at_s"))
    if age_s > SILENT_S:
        return [Complaint(Trouble.SILENT, f"the monitor has published nothing for {age_s:.0f} s: nothing is decided by itself")]
    return [*_behind(monitor), *_sampled(monitor), *_drills(_object(monitor.get("drills")))]


def _behind(monitor: Mapping[str, object]) -> list[Complaint]:
    lag_s = _number(monitor.get("lag_s"))
    if lag_s <= LAG_S:
        return []
    return [Complaint(Trouble.BEHIND, f"the monitor is {lag_s:.0f} s behind the log: decisions come that much later")]


def _sampled(monitor: Mapping[str, object]) -> list[Complaint]:
    rate = _number(_object(monitor.get("sampling")).get("rate"), 1.0)
    if rate >= 1.0:
        return []
    reason = f"more comes than the monitor's budget: it looks at {share_shown(rate)} of it, and decides later"
    return [Complaint(Trouble.SAMPLED, reason)]


def _drills(drills: Mapping[str, object]) -> list[Complaint]:
    found = []
    for drill in ("drift", "harm"):
        last = _object(_object(drills.get(drill)).get("last"))
        if last.get("ending") == "missed":
            reason = f"the last {drill} drill found nothing within {_number(last.get('requests')):.0f} requests"
            found.append(Complaint(Trouble.MISSED_DRILL, reason))
    if drills.get("has_too_many_alarms"):
        found.append(Complaint(Trouble.FALSE_ALARMS, "A/A drills alarm more often than the configured rates of false alarms"))
    return found


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _number(value: object, default: float = 0.0) -> float:
    return float(value) if isinstance(value, int | float) else default
