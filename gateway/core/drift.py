"""Drift against the reference: how far binned distributions lie apart, alarms, and the incidents that they make.

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
from gateway.core.tensors import FloatArray, IntArray

PSI_BOUND: Final = 0.1  # the usual "moderate change"
PSI_ALPHA: Final = 0.005  # of a false breach by chance alone; the chi-square is only its limit, and n = 100 must stay under 1 %
PSI_ROWS_MIN: Final = 100  # fewer rows fill ten cells too thinly to say anything
MERGE_S: Final = 600.0  # alarms of one route closer than this are one incident


def stability_indices(reference: FloatArray, current: IntArray, starts: IntArray, *, reference_rows: int) -> FloatArray:
    """Return how far current counts of several features lie from the reference, in nats, in [0, inf). Shape (features,).

    Args:
        reference: Shape (cells,). Proportions over fixed cells, one feature after the other; each feature's sum to 1.
        current: Shape (cells,). Counts over the same cells, of as many rows for each feature.
        starts: Shape (features,). Where each feature's cells begin.
        reference_rows: What the proportions were made of.

    Both sides are smoothed by half a row a cell, so that an empty cell weighs as much as its rows can say and no more.
    Source: sum((c - r) * ln(c / r)); Siddiqi, Credit Risk Scorecards, 2006.
    """
    assert len(reference) == len(current), "the same cells"
    sizes = np.diff(starts, append=len(current))
    cells = np.repeat(sizes, sizes)
    was = (reference * reference_rows + 0.5) / (reference_rows + 0.5 * cells)
    rows = int(np.add.reduce(current[: sizes[0]])) if len(sizes) else 0
    now = (current + 0.5) / (rows + 0.5 * cells)
    indices: FloatArray = np.add.reduceat((now - was) * np.log(now / was), starts)
    return indices


def psi_bounds(
    sizes: IntArray, *, rows: FloatArray | float, reference_rows: FloatArray | float, alpha: float = PSI_ALPHA
) -> FloatArray:
    """Return the indices above which distributions have drifted: `PSI_BOUND`, or what chance alone reaches with so few rows.

    Without drift an index is about (1/n + 1/m) times a chi-square with cells − 1 degrees of freedom.

    Args:
        sizes: Shape (features,). Cells of each.
        rows, reference_rows: Independent ones; rows that resemble their neighbours are fewer.
    """
    chances = np.asarray([_chi_square(size - 1, alpha) for size in sizes.tolist()])
    bounds: FloatArray = np.maximum(PSI_BOUND, (1.0 / rows + 1.0 / reference_rows) * chances)
    return bounds


@lru_cache(1_000)
def _chi_square(freedom: int, alpha: float) -> float:
    """Return what a chi-square exceeds with that chance; kept, because every batch asks for the same few."""
    return float(chdtri(freedom, alpha))


@dataclass(frozen=True, slots=True)
class Alarm:
    """One detector or index that said "moved".

    Attributes:
        subjects: What moved: features, `answer`, `errors`, `loss`; what moved most comes first.
        attribution: WORLD or DATA (missing, out of range, unseen).
        why: One sentence with its numbers.
    """

    subjects: tuple[str, ...]
    attribution: Attribution
    time_s: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """Alarms that belong together; it latches until they have been quiet for `MERGE_S`.

    Attributes:
        subjects: What moved, in the order of the first alarms, without repeats.
        alarms: How many.
        why: Of the first alarm.
    """

    attribution: Attribution
    subjects: tuple[str, ...]
    opened_at_s: float
    last_at_s: float
    alarms: int
    why: str = ""

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
            "why": self.why,
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
            why=fields.text("why"),
        )


INCIDENTS_MAX: Final = 100  # kept for a route; the oldest go first


def with_alarm(incidents: tuple[Incident, ...], alarm: Alarm) -> tuple[Incident, ...]:
    """Return the incidents after an alarm: the open one of that attribution takes it, else a new one begins."""
    for at in reversed(range(len(incidents))):
        incident = incidents[at]
        if incident.attribution is alarm.attribution and incident.is_open(alarm.time_s):
            grown = replace(
                incident,
                subjects=tuple(dict.fromkeys((*incident.subjects, *alarm.subjects))),
                last_at_s=max(incident.last_at_s, alarm.time_s),
                alarms=incident.alarms + 1,
            )
            return (*incidents[:at], grown, *incidents[at + 1 :])
    fresh = Incident(alarm.attribution, alarm.subjects, alarm.time_s, alarm.time_s, 1, alarm.why)
    return (*incidents[-(INCIDENTS_MAX - 1) :], fresh)


def frozen_by(incidents: Sequence[Incident], now_s: float) -> Attribution:
    """Return what freezes a route now: the newest open incident's attribution, or NONE."""
    is_open = [incident for incident in incidents if incident.is_open(now_s)]
    return max(is_open, key=lambda incident: incident.last_at_s).attribution if is_open else Attribution.NONE
