"""Drift against the reference: how far binned distributions lie apart, the signals a detector is fed, and incidents.

None of this blames a version: a drift says that something moved. A detector answers "did it change lately", the stability index
"is it like training"; both views are kept. Pure; detectors are a port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.special import chdtri

from gateway.core.attribution import Attribution
from gateway.core.fields import Fields, Json
from gateway.core.profiles import FloatArray, IntArray

PSI_BOUND: Final = 0.1  # the usual "moderate change"
PSI_ALPHA: Final = 0.005  # of a false breach by chance alone; the chi-square is only its limit, and n = 100 must stay under 1 %
PSI_ROWS_MIN: Final = 100  # fewer rows fill ten cells too thinly to say anything
CORRELATION_MAX: Final = 0.2  # of neighbours; above it a detector takes runs for changes
BLOCK_MAX: Final = 128  # neighbours alike at .97; beyond that a block would hide real changes for too long
MERGE_S: Final = 600.0  # alarms of one route closer than this are one incident


def population_stability_index(
    reference: Sequence[float] | FloatArray, current: Sequence[int] | IntArray, *, reference_rows: int
) -> float:
    """Return how far current counts lie from the reference, in nats, in [0, inf).

    Args:
        reference: Shape (cells,). Proportions over fixed cells, sum 1.
        current: Shape (cells,). Counts over the same cells.
        reference_rows: What the proportions were made of.

    Both sides are smoothed by half a row a cell, so that an empty cell weighs as much as its rows can say and no more.
    Source: sum((c - r) * ln(c / r)); Siddiqi, Credit Risk Scorecards, 2006.
    """
    assert len(reference) == len(current), "the same cells"
    cells = len(current)
    was = (np.asarray(reference) * reference_rows + 0.5) / (reference_rows + 0.5 * cells)
    counts = np.asarray(current, dtype=np.float64)
    now = (counts + 0.5) / (np.add.reduce(counts) + 0.5 * cells)
    return float(np.add.reduce((now - was) * np.log(now / was)))


def psi_bound(cells: int, *, rows: int, reference_rows: int, alpha: float = PSI_ALPHA) -> float:
    """Return the index above which a distribution has drifted: `PSI_BOUND`, or what chance alone reaches with so few rows.

    Without drift the index is about (1/n + 1/m) times a chi-square with cells − 1 degrees of freedom.
    """
    return max(PSI_BOUND, (1.0 / rows + 1.0 / reference_rows) * _chi_square(cells - 1, alpha))


@lru_cache(1_000)
def _chi_square(freedom: int, alpha: float) -> float:
    """Return what a chi-square exceeds with that chance; kept, because every batch asks for the same few."""
    return float(chdtri(freedom, alpha))


def has_drifted(reference: Sequence[float], current: Sequence[int], *, reference_rows: int) -> bool:
    """Return whether the index is above its bound; fewer than `PSI_ROWS_MIN` rows say nothing."""
    rows = sum(current)
    if rows < PSI_ROWS_MIN:
        return False
    index = population_stability_index(reference, current, reference_rows=reference_rows)
    return index > psi_bound(len(current), rows=rows, reference_rows=reference_rows)


def spread(u: FloatArray) -> FloatArray:
    """Return 4·(u − ½)², in [0, 1]: its mean moves when the values spread or shrink about an unmoved centre."""
    squared: FloatArray = 4.0 * (u - 0.5) ** 2
    return squared


class BlockAverage:
    """Averages runs of a correlated signal, so that a detector sees values that are nearly independent.

    The correlation of neighbours is 1 − D1/Dk, D1 and Dk being mean squared differences of values one apart and `FAR` apart;
    unlike the textbook estimate it does not take a shift of the level, which the detector is there for, for correlation.
    """

    FAR: Final = 64
    MEMORY: Final = 1.0 / 1_000.0  # weight of the newest difference: an hour's habit is forgotten in an hour's worth of rows
    COUNT_MIN: Final = 200  # differences before the estimate is believed

    def __init__(self) -> None:
        self._past: FloatArray = np.empty(0)  # the last `FAR` values
        self._near = 0.0
        self._far = 0.0
        self._count = 0
        self._sum = 0.0
        self._filled = 0
        self._length = 1

    def push(self, value: float) -> float | None:
        """Take a value in [0, 1]; return the block's mean when one is full, else None."""
        self._learn(np.asarray([value]))
        if self._filled == 0:
            self._length = block_length(self.correlation)
        self._sum += value
        self._filled += 1
        if self._filled < self._length:
            return None
        mean = self._sum / self._filled
        self._sum, self._filled = 0.0, 0
        return mean

    def push_all(self, values: FloatArray) -> FloatArray:
        """Take a run of values in [0, 1] and return the means of the blocks that it fills, in order.

        As `push` one by one at a tenth of its cost, but that the correlation is learned from the run as a whole, and first.
        """
        self._learn(values)
        length = block_length(self.correlation)
        if self._filled == 0 and length == 1:
            return values
        means, at = [], 0
        while at < len(values):
            if self._filled == 0:
                self._length = length
            part = values[at : at + self._length - self._filled]
            self._sum += float(part.sum())
            self._filled += len(part)
            at += len(part)
            if self._filled == self._length:
                means.append(self._sum / self._filled)
                self._sum, self._filled = 0.0, 0
        return np.asarray(means)

    @property
    def correlation(self) -> float:
        """Of neighbours, in [0, 1]; 0 while too little is known."""
        if self._count < self.COUNT_MIN or self._far <= 0.0:
            return 0.0
        return min(1.0, max(0.0, 1.0 - self._near / self._far))

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {
            "past": self._past.tolist(),
            "near": self._near,
            "far": self._far,
            "count": self._count,
            "sum": self._sum,
            "filled": self._filled,
            "length": self._length,
        }

    @classmethod
    def restored(cls, state: object) -> BlockAverage:
        """Go on from what `state` returned."""
        fields = Fields(state, "blocks")
        blocks = cls()
        past = [Fields({"v": item}, "blocks").number("v", 0.0, 1.0) for item in fields.items("past", cls.FAR)]
        blocks._past = np.asarray(past, dtype=np.float64)
        blocks._near, blocks._far = fields.number("near", 0.0, 1e9), fields.number("far", 0.0, 1e9)
        blocks._count, blocks._sum = fields.integer("count", 0, 1 << 62), fields.number("sum", 0.0, 1e9)
        blocks._filled, blocks._length = fields.integer("filled", 0, BLOCK_MAX), fields.integer("length", 1, BLOCK_MAX)
        return blocks

    def _learn(self, values: FloatArray) -> None:
        joined = np.concatenate((self._past, values))
        first = max(len(self._past), self.FAR)
        if (count := len(joined) - first) > 0:
            now = joined[first:]
            near, far = now - joined[first - 1 : -1], now - joined[first - self.FAR : -self.FAR]
            self._count += count
            weight = max(1.0 - (1.0 - self.MEMORY) ** count, count / self._count)
            self._near += weight * (float(np.add.reduce(near * near)) / count - self._near)  # no BLAS: its last bit is its own
            self._far += weight * (float(np.add.reduce(far * far)) / count - self._far)
        self._past = joined[-self.FAR :]


def block_length(correlation: float) -> int:
    """Return how many neighbours to average so that the means correlate by less than `CORRELATION_MAX` / 2; at most `BLOCK_MAX`.

    The signal is taken for a first-order autoregression: means of b values then correlate by
    φ(1 − φ^b)² / (b(1 − φ²) − 2φ(1 − φ^b)).
    """
    if correlation <= CORRELATION_MAX:
        return 1
    length = 2
    while length < BLOCK_MAX and _block_correlation(min(correlation, 0.999), length) > CORRELATION_MAX / 2:
        length *= 2
    return length


def _block_correlation(phi: float, length: int) -> float:
    rest = 1.0 - phi**length
    return phi * rest**2 / (length * (1.0 - phi**2) - 2.0 * phi * rest)


@dataclass(frozen=True, slots=True)
class Alarm:
    """One detector or index that said "moved".

    Attributes:
        subject: What moved: a feature, `errors`, `loss`.
        attribution: WORLD or DATA (missing, out of range, unseen).
    """

    subject: str
    attribution: Attribution
    time_s: float


@dataclass(frozen=True, slots=True)
class Incident:
    """Alarms that belong together; it latches until they have been quiet for `MERGE_S`.

    Attributes:
        subjects: What moved, in the order of the first alarms, without repeats.
        alarms: How many.
    """

    attribution: Attribution
    subjects: tuple[str, ...]
    opened_at_s: float
    last_at_s: float
    alarms: int

    def is_open(self, now_s: float) -> bool:
        """Whether it still freezes what it freezes."""
        return now_s - self.last_at_s < MERGE_S

    def body(self) -> Json:
        """Return the incident as readings and audit entries show it."""
        return {
            "attribution": self.attribution.value,
            "subjects": list(self.subjects),
            "opened_at_s": self.opened_at_s,
            "last_at_s": self.last_at_s,
            "alarms": self.alarms,
        }

    @classmethod
    def from_body(cls, body: object) -> Incident:
        """Read what `body` wrote."""
        fields = Fields(body, "incident")
        return cls(
            attribution=fields.choice("attribution", Attribution),
            subjects=tuple(str(item) for item in fields.items("subjects", 1_000_000)),
            opened_at_s=fields.number("opened_at_s", 0.0, 1e12),
            last_at_s=fields.number("last_at_s", 0.0, 1e12),
            alarms=fields.integer("alarms", 1, 1 << 62),
        )


INCIDENTS_MAX: Final = 100  # kept for a route; the oldest go first


def with_alarm(incidents: tuple[Incident, ...], alarm: Alarm) -> tuple[Incident, ...]:
    """Return the incidents after an alarm: the open one of that attribution takes it, else a new one begins."""
    for at in reversed(range(len(incidents))):
        incident = incidents[at]
        if incident.attribution is alarm.attribution and incident.is_open(alarm.time_s):
            grown = replace(
                incident,
                subjects=tuple(dict.fromkeys((*incident.subjects, alarm.subject))),
                last_at_s=max(incident.last_at_s, alarm.time_s),
                alarms=incident.alarms + 1,
            )
            return (*incidents[:at], grown, *incidents[at + 1 :])
    fresh = Incident(alarm.attribution, (alarm.subject,), alarm.time_s, alarm.time_s, 1)
    return (*incidents[-(INCIDENTS_MAX - 1) :], fresh)


def frozen_by(incidents: Sequence[Incident], now_s: float) -> Attribution:
    """Return what freezes a route now: the newest open incident's attribution, or NONE."""
    is_open = [incident for incident in incidents if incident.is_open(now_s)]
    return max(is_open, key=lambda incident: incident.last_at_s).attribution if is_open else Attribution.NONE
