"""How a report's time is cut: equal spans on round UTC times, few enough to be read. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import MalformedRequest

SPANS_MAX: Final = 96  # a day in quarters of an hour; of a plot 960 wide, 10 each
DAY_S: Final = 86_400.0
_STEPS_S: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, DAY_S, 7 * DAY_S)


@dataclass(frozen=True, slots=True)
class Spans:
    """Equal spans that cover [since, until).

    Attributes:
        first_s: Where the first begins: a multiple of the step, at or before `since_s`.
    """

    since_s: float
    until_s: float
    first_s: float
    step_s: float
    count: int

    def at(self, time_s: float) -> int | None:
        """Return the index of a time's span; None outside."""
        return int((time_s - self.first_s) // self.step_s) if self.since_s <= time_s < self.until_s else None

    def begins(self) -> list[float]:
        """Return where each begins."""
        return [self.first_s + at * self.step_s for at in range(self.count)]


def spans_between(since_s: float, until_s: float) -> Spans:
    """Return the finest spans that are not too many.

    Raises:
        MalformedRequest: the times are in the wrong order or too far apart.
    """
    if not 0.0 <= since_s < until_s:
        raise MalformedRequest("a report ends after it begins", hint="look at --since and --until")
    for step_s in _STEPS_S:
        first_s = since_s // step_s * step_s
        count = math.ceil((until_s - first_s) / step_s)
        if count <= SPANS_MAX:
            return Spans(since_s, until_s, first_s, step_s, count)
    raise MalformedRequest(f"a report covers at most {SPANS_MAX - 1} weeks", hint="give a later --since")
