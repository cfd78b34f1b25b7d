"""How wrong a version's answers probably are while their ground truth is still to come.

Answers are put into cells by what they state: a probability's tenth, a label, or a number's place among the first ones seen. The
loss that became known in a cell is expected of the next answers in it; until some did, a stated probability is taken at its word.
It is an estimate: it holds as long as answers of a cell stay as wrong as they were, and is no evidence for or against a version.
What it said is compared with what came true. Pure.
"""

from __future__ import annotations

import bisect
import copy
from typing import Final

from gateway.core.losses import Statement

PRIOR_ROWS: Final = 20.0  # that a stated probability is worth beside the losses known in its cell
KNOWN_MIN: Final = 20  # losses in a cell from which it says something without a stated probability
CELLS: Final = 10
LEARN_ROWS: Final = 200  # numbers whose tenths become the cells
LABELS_MAX: Final = 100  # cells of labels; beyond them a label says nothing


class LossEstimate:
    """Of one version on one route.

    Attributes:
        checked: Rows whose ground truth came, with what was estimated for them.
        estimated, realised: Summed over those rows.
    """

    __slots__ = ("cells", "checked", "edges", "estimated", "first", "realised")

    def __init__(self) -> None:
        self.cells: dict[int | str, tuple[int, float]] = {}  # losses known, and their sum
        self.edges: tuple[float, ...] = ()
        self.first: list[float] = []
        self.checked = 0
        self.estimated = 0.0
        self.realised = 0.0

    def copied(self) -> LossEstimate:
        """Return the same estimate again, which goes its own way."""
        after = copy.copy(self)
        after.cells, after.first = dict(self.cells), list(self.first)
        return after

    def expect(self, statement: Statement) -> float | None:
        """Return the loss to expect of an answer, in [0, 1]; None while there is nothing to go by."""
        cell, prior = self._cell(statement), statement[1]
        count, total = (0, 0.0) if cell is None else self.cells.get(cell, (0, 0.0))
        if prior is not None:
            return (PRIOR_ROWS * prior + total) / (PRIOR_ROWS + count)
        return total / count if count >= KNOWN_MIN else None

    def learn(self, statement: Statement, loss: float, estimate: float | None) -> None:
        """Take the loss of an answer, and what was expected of it when it was made."""
        if estimate is not None:
            self.checked += 1
            self.estimated += estimate
            self.realised += loss
        cell = self._cell(statement)
        if cell is None and isinstance(statement[0], float):
            self._learn_edges(statement[0])
        elif cell is not None and (cell in self.cells or len(self.cells) < LABELS_MAX):
            count, total = self.cells.get(cell, (0, 0.0))
            self.cells[cell] = (count + 1, total + loss)

    @property
    def bias(self) -> float | None:
        """What was estimated less what came true, a row; None before anything did."""
        return (self.estimated - self.realised) / self.checked if self.checked else None

    def _cell(self, statement: Statement) -> int | str | None:
        value, prior = statement
        if isinstance(value, str):
            return value
        if prior is not None:
            return min(int(value * CELLS), CELLS - 1)
        return bisect.bisect_right(self.edges, value) if self.edges else None

    def _learn_edges(self, value: float) -> None:
        self.first.append(value)
        if len(self.first) == LEARN_ROWS:
            ranked = sorted(self.first)
            self.edges = tuple(ranked[LEARN_ROWS * tenth // CELLS] for tenth in range(1, CELLS))
            self.first = []
