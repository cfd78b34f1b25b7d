"""How long ground truth takes, as counts in cells a quarter of a decade wide: as exact as a board needs, and bounded. Pure."""

from __future__ import annotations

import bisect
from typing import Final

EDGES_S: Final[tuple[float, ...]] = tuple(
    10.0 ** (quarter / 4) for quarter in range(-4, 31)
)  # from a tenth of a second to a year


class Delays:
    """Counted delays of one version."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES_S) + 1)

    def count(self, delay_s: float) -> None:
        """Count one."""
        self.counts[bisect.bisect_left(EDGES_S, delay_s)] += 1

    def quantile_s(self, share: float) -> float | None:
        """Return the upper edge of the cell in which the share's delay lies; None without any. At most 78 % above it."""
        wanted, seen = share * sum(self.counts), 0
        for count, edge_s in zip(self.counts, (*EDGES_S, EDGES_S[-1]), strict=True):
            seen += count
            if count and seen >= wanted:
                return edge_s
        return None
