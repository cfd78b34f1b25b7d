"""What a value may be: a closed interval, and what sums, products, comparisons and words make of such intervals.

Only what holds for every value is said, so that what comes to the same whatever happens is found before anything is measured by
it. A result that is no finite number is no value, and is not spoken of. Pure.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Range:
    """Every number from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def is_one(self) -> bool:
        """Whether there is only one such number."""
        return self.low == self.high

    @property
    def truth(self) -> bool | None:
        """What such a number says as a truth value: nonzero is true; None where it may be either."""
        if self.low > 0.0 or self.high < 0.0:
            return True
        return False if self.is_one else None

    def clipped(self, low: float, high: float) -> Range:
        """Return the range of values that are clipped to [low, high]."""
        return Range(min(max(self.low, low), high), min(max(self.high, low), high))


ANY: Final = Range()
EITHER: Final = Range(0.0, 1.0)  # of the truth values


def exactly(number: float) -> Range:
    """Return the range of one number."""
    return Range(number, number)


def total(one: Range, other: Range) -> Range:
    """Return the range of sums."""
    return _between(one.low + other.low, one.high + other.high)


def difference(one: Range, other: Range) -> Range:
    """Return the range of differences."""
    return _between(one.low - other.high, one.high - other.low)


def product(one: Range, other: Range) -> Range:
    """Return the range of products."""
    ends = [a * b if a and b else 0.0 for a, b in itertools.product((one.low, one.high), (other.low, other.high))]
    return Range(min(ends), max(ends))


def quotient(one: Range, other: Range) -> Range:
    """Return the range of quotients; division by zero gives none."""
    if one.truth is False:
        return exactly(0.0)
    if other.low <= 0.0 <= other.high or math.inf in (one.high, -one.low, other.high, -other.low):
        return ANY
    ends = [a / b for a, b in itertools.product((one.low, one.high), (other.low, other.high))]
    return Range(min(ends), max(ends))


def magnitude(one: Range) -> Range:
    """Return the range of absolute values."""
    ends = sorted((abs(one.low), abs(one.high)))
    return Range(0.0 if one.low <= 0.0 <= one.high else ends[0], ends[1])


def least(ranges: list[Range]) -> Range:
    """Return the range of the smallest of some."""
    return Range(min(one.low for one in ranges), min(one.high for one in ranges))


def most(ranges: list[Range]) -> Range:
    """Return the range of the largest of some."""
    return Range(max(one.low for one in ranges), max(one.high for one in ranges))


def compared(sign: str, one: Range, other: Range) -> Range:
    """Return the range of the truth value of a comparison of numbers."""
    match sign:
        case "<":
            return said(True if one.high < other.low else False if one.low >= other.high else None)
        case "<=":
            return said(True if one.high <= other.low else False if one.low > other.high else None)
        case ">" | ">=":
            return compared("<" if sign == ">" else "<=", other, one)
        case _:
            is_same = True if one.is_one and one == other else False if one.high < other.low or other.high < one.low else None
            return said(is_same if sign == "==" or is_same is None else not is_same)


def joined(one: Range, other: Range, *, is_and: bool) -> Range:
    """Return the range of `one and other`, or of `one or other`."""
    told = (one.truth, other.truth)
    if (not is_and) in told:
        return said(not is_and)
    return said(None if None in told else is_and)


def negated(one: Range) -> Range:
    """Return the range of `not one`."""
    return said(None if one.truth is None else not one.truth)


def said(is_true: bool | None) -> Range:
    """Return the range of a truth value; None where it may be either."""
    return EITHER if is_true is None else exactly(float(is_true))


def _between(low: float, high: float) -> Range:
    """Return the range between two ends; of ends beyond the largest number, which cancel out, nothing is known."""
    return ANY if math.isnan(low) or math.isnan(high) else Range(low, high)
