"""What a row of the table is made of: lines with a target, the figure found, a dummy's figure beside it, and a verdict.

A rate comes with its interval by Clopper and Pearson, a count over rows with Garwood's, a median with that of its order
statistics; all have 95 %. A line whose figure keeps the target while its interval is too wide to say so is not met: it had too
few runs.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from statistics import median_low
from typing import TypeVar

from scipy.special import betaincinv, gammaincinv

T = TypeVar("T")
MEDIAN_RANKS = 0.98  # × √n on either side of the middle: 1.96 deviations of how many of n lie below the median


class Verdict(enum.Enum):
    """What a line says of its target."""

    MET = "met"
    MISSED = "MISSED"
    OPEN = "too few runs"
    BESIDE = ""  # printed beside, without a target


@dataclass(frozen=True)
class Line:
    """One figure.

    Attributes:
        dummy: The same figure of the row's dummy.
        is_exact: Whether even a few runs decide, because nothing of it is chance.
    """

    what: str
    target: str
    found: str
    dummy: str = ""
    verdict: Verdict = Verdict.BESIDE
    is_exact: bool = False


class Size(enum.Enum):
    """How many runs a row takes."""

    QUICK = "quick"  # whether it runs at all
    USUAL = "usual"
    FULL = "full"


@dataclass(frozen=True)
class Asked:
    """What a row is run with.

    Attributes:
        seed: The first; runs take those from it on.
        pool: Of as many processes as were asked for.
    """

    size: Size
    seed: int
    pool: Executor

    def of(self, quick: T, usual: T, full: T) -> T:
        """Return what belongs to the size."""
        return {Size.QUICK: quick, Size.USUAL: usual, Size.FULL: full}[self.size]

    def seeds(self, runs: int) -> range:
        """Return the seeds of so many runs."""
        return range(self.seed, self.seed + runs)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        dummy: What stands beside the figures.
        run: Yields the row's lines as they are found.
    """

    number: int
    title: str
    dummy: str
    run: Callable[[Asked], Iterator[Line]]


def judged(is_kept: bool, *, is_sure: bool = True) -> Verdict:
    """Return the verdict of a figure that keeps its target or not, with an interval that is narrow enough or not."""
    if not is_kept:
        return Verdict.MISSED
    return Verdict.MET if is_sure else Verdict.OPEN


def interval(hits: int, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return both limits of a proportion (Clopper and Pearson)."""
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if hits == 0 else float(betaincinv(hits, runs - hits + 1, tail))
    return low, 1.0 if hits == runs else float(betaincinv(hits + 1, runs - hits, 1.0 - tail))


def upper_limit(hits: int, runs: int) -> float:
    """Return the one-sided 95 % upper limit of a proportion (Clopper and Pearson)."""
    return interval(hits, runs, 0.9)[1]


def count_limits(count: int) -> tuple[float, float]:
    """Return both limits of the mean of a count of rare events (Garwood)."""
    return 0.0 if count == 0 else float(gammaincinv(count, 0.025)), float(gammaincinv(count + 1, 0.975))


def median_limits(found: Sequence[float]) -> tuple[float, float]:
    """Return both limits of a median, from the order statistics."""
    ordered, middle = sorted(found), len(found) / 2.0
    reach = MEDIAN_RANKS * math.sqrt(len(found))
    return ordered[max(0, math.floor(middle - reach))], ordered[min(len(ordered) - 1, math.ceil(middle + reach))]


def share_text(hits: int, runs: int) -> str:
    """Return a proportion with its interval."""
    low, high = interval(hits, runs)
    return f"{hits} of {runs:,} = {hits / runs:.2%} ({low:.2%}–{high:.2%})"


def delay_line(what: str, found: Sequence[float], most: float | None, dummy: str, missed_max: float = 0.01) -> Line:
    """Return the line of delays, infinite where harm was missed: median, its interval, the slowest tenth, what was missed.

    Args:
        most: What the median may be, or None for a line without a target.
    """
    ordered, missed = sorted(found), sum(map(math.isinf, found))
    low, high = median_limits(ordered)
    text = f"{median_low(ordered):.0f} ({low:.0f}–{high:.0f}), 90 % {ordered[int(0.9 * len(ordered))]:.0f}, missed {missed}"
    text += f" of {len(ordered)}"
    if most is None:
        return Line(what, "", text, dummy)
    is_kept = median_low(ordered) <= most and missed <= missed_max * len(ordered)
    return Line(what, f"median ≤ {most:g}", text, dummy, judged(is_kept))
