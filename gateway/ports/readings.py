"""What the monitor finds, one signal at a time, and what control shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.fields import Json


@dataclass(frozen=True, slots=True)
class Reading:
    """What a detector found in one update.

    Attributes:
        value: The detector's estimate of its signal now.
        alarm_count: How many of the update's values raised the alarm.
    """

    value: float
    alarm_count: int


class Detector(Protocol):
    """A change detector over one signal in [0, 1]. Never sees NaN; the caller maps and counts what is missing."""

    def update(self, values: Sequence[float]) -> Reading:
        """Take values in order, at least one, and return the reading; the same as one by one, at a fraction of the cost."""

    def state(self) -> bytes:
        """Return everything needed to go on exactly."""

    def restore(self, state: bytes) -> None:
        """Go on from a state of the same kind of detector."""


class ReadingsView(Protocol):
    """What control shows of the monitor. Losing one loses a picture, never a decision."""

    def latest(self) -> Json | None:
        """Return the last picture, or None."""


class Readings(ReadingsView, Protocol):
    """The monitor's end of it."""

    def publish(self, readings: Json) -> None:
        """Replace the picture; a reader sees the old one or the new one, never a mixture."""
