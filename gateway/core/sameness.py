"""Whether a measure of one's own ever varied: what is the same for every record can find nothing, whatever the verdict says.

An expression that is the same by itself is refused beforehand (`core/measurable.py`); a segment that never comes, or a feature
that never changes, shows in the records only. Pure.
"""

from __future__ import annotations

from typing import Final

from gateway.core.evidence import COUNT_MAX
from gateway.core.fields import Fields, Json

TOLD_FROM: Final = 100  # records: a value that one in 22 has would have shown with 99 %


class Sameness:
    """The value of all records so far, while they have the same. Not shared between threads."""

    __slots__ = ("_count", "_has_varied", "_units", "_value")

    def __init__(self, units: tuple[float, float]) -> None:
        """Begin with no record; `units` are what 0 and 1 of the values mean."""
        self._units = units
        self._value: float | None = None
        self._count = 0
        self._has_varied = False

    def observe(self, value: float) -> None:
        """Take the value of one record, in [0, 1]."""
        if self._has_varied:
            return
        if self._value is None:
            self._value = value
        self._has_varied = value != self._value
        self._count = min(self._count + 1, COUNT_MAX)

    def remark(self) -> Json:
        """Return the value and the number of records that had it, as people see it; empty while that says nothing."""
        if self._has_varied or self._value is None or self._count < TOLD_FROM:
            return {}
        low, high = self._units
        return {"unvaried": {"value": low + (high - low) * self._value, "records": self._count}}

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {"value": self._value, "count": self._count, "has_varied": self._has_varied}

    def restore(self, state: object) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "sameness")
        self._value = fields.number("value", 0.0, 1.0) if fields.has("value") else None
        self._count = fields.integer("count", 0, COUNT_MAX)
        self._has_varied = fields.boolean("has_varied")
