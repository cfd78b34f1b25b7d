"""Watches columns of values for drift, in two views that are both kept.

Against the reference: e-detectors on the mean of every signal with one false-alarm budget, and the stability index of the last
rows; neither forgets what training was like. Lately: a detector for each feature's place and spread, which takes drifted values
for normal after its alarm. Folds batches of rows; no I/O of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gateway.core.attribution import Attribution
from gateway.core.blocks import Blocks
from gateway.core.departures import Departure, Departures, ranges
from gateway.core.drift import PSI_ROWS_MIN, psi_bounds, stability_indices
from gateway.core.fields import Json
from gateway.core.models import Column
from gateway.core.profile_bodies import profile_body, profile_from_body
from gateway.core.profiles import ALIKE_MAX, APART, FeatureMap, ReferenceProfile, build_profile, cell_count
from gateway.core.signals import Signals
from gateway.core.tensors import Array, FloatArray, IntArray
from gateway.ports.readings import Detector

WINDOW_ROWS: Final = 2_000  # what the stability index looks at; chance alone moves it by 0.01
SLOT_ROWS: Final = 256  # of the window, dropped together; the index is looked at when one is full
LEARN_ROWS: Final = 1_000  # the first, of what has no training sample
RETURN_ROWS: Final = 10_000  # without another departure, and the columns are like training again
NAMED_SHARE: Final = 0.9  # of a departure is named, the features with the greatest shares first…
NAMED_MAX: Final = 5  # …and no more than that


@dataclass(frozen=True, slots=True)
class Moved:
    """What an alarm is about to say."""

    subjects: tuple[str, ...]
    attribution: Attribution
    why: str


@dataclass(frozen=True, slots=True)
class FeatureReading:
    """Where one feature stands.

    Attributes:
        rows: In the window of the stability index.
        share: Of the last departure while it lasts, else of the e-detectors' average now.
        psi, psi_bound: The index, 0 while it says nothing, and what it must exceed.
        is_judged: Whether `is_breached` says something: not before a slot is full, nor while the index has come to exceed its
            bound since the last look.
        value, spread: Lately, of its place and spread; None before the first.
        alarms: Of recent change, ever.
        correlation: Of neighbouring rows.
        apart: Shares of the window's rows without a place in training, in the order of `APART`.
        current, reference: Counts and rates of its cells.
    """

    feature: str
    rows: int
    share: float
    psi: float
    psi_bound: float
    is_breached: bool
    is_judged: bool
    value: float | None
    spread: float | None
    alarms: int
    correlation: float
    apart: tuple[float, ...]
    current: tuple[int, ...]
    reference: tuple[float, ...]

    def body(self) -> Json:
        """Return the feature as readings show it."""
        plain: Json = {name: getattr(self, name) for name in self.__slots__}
        apart: Json = {reason.value: share for reason, share in zip(APART, self.apart, strict=True)}
        return {**plain, "apart": apart, "current": list(self.current), "reference": list(self.reference)}


@dataclass(frozen=True, slots=True)
class Budget:
    """What false alarms may cost a group of columns.

    Attributes:
        departure_rows: Mean distance between false departures of the whole group, at least.
        psi_alpha: Chance of a false breach of one feature's stability index in one window.
    """

    departure_rows: float
    psi_alpha: float


class ColumnsWatch:
    """The features of one reference.

    Attributes:
        names: Of the features, in their order.
        rows: In the window of the stability index.
        is_departed: Whether the columns are unlike the reference now.
        departed_shares: Shape (features,). Of the last departure.
    """

    def __init__(self, profile: ReferenceProfile, detector: Callable[[int], Detector], budget: Budget) -> None:
        """Watch the profile's features; `detector` makes one of so many that are watched together."""
        self.profile = profile
        self.names = tuple(feature.name for feature in profile.features)
        self._map = FeatureMap(profile.features)
        self._signals = signals = Signals(profile.features, reference_rows=profile.rows)
        self._blocks = Blocks(len(signals.names), like=signals.owners)
        self._departures = Departures(
            ranges(signals.means, signals.deviations, signals.rows),
            signals.weights,
            rises_only=signals.is_data,
            alarm_rows=budget.departure_rows,
        )
        self.is_departed = False
        self.departed_shares: FloatArray = np.zeros(len(self.names))
        self._rows_since = 0
        self._detectors = [detector(2 * len(self.names)) for _ in range(2 * len(self.names))]
        usual = [*(one.place_levels for one in profile.features), *(one.spread_levels for one in profile.features)]
        self._usual: FloatArray = np.asarray(usual).reshape(
            -1, 2
        )  # each signal's least and greatest level, in training and told since
        self._reference_alike: FloatArray = np.asarray([max(one.correlation, one.swing) for one in profile.features])
        self._levels: FloatArray = np.full(2 * len(self.names), np.nan)
        self._alarms: IntArray = np.zeros(2 * len(self.names), np.int64)
        self._psi_alpha = budget.psi_alpha
        self._sizes: IntArray = np.asarray([cell_count(feature) for feature in profile.features], np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._rates = np.concatenate([feature.rates for feature in profile.features])
        self._counts: IntArray = np.zeros(len(self._rates), np.int64)
        self._slots: deque[tuple[int, IntArray]] = deque()
        self._slot: tuple[int, IntArray] = (0, self._counts.copy())
        self.rows = 0
        self.is_breached = np.zeros(len(self.names), np.bool_)
        self._readings: list[FeatureReading] | None = None  # until more rows come: a picture and a scrape show the same

    def feed(self, columns: Sequence[Array]) -> list[Moved]:
        """Take one array of shape (rows,) for each feature, and return what it raised alarms of."""
        self._readings = None
        u, cells = self._map.rows(columns)
        means = self._blocks.push(self._signals.values(u, cells))
        moved = []
        if (departure := self._departures.push(means)) is not None:
            moved += self._depart(departure)
        self._rows_since += u.shape[1]
        self.is_departed &= self._rows_since < RETURN_ROWS
        return [*moved, *self._detect(means), *self._slide(cells)]

    def learn(self, columns: Sequence[Array]) -> None:
        """Take rows of the reference, in order, for how much their neighbours resemble one another."""
        self._blocks.push(self._signals.values(*self._map.rows(columns)))

    def psi(self) -> tuple[FloatArray, FloatArray]:
        """Return each feature's stability index over the window, 0 while it says nothing, and what it must exceed."""
        alike = np.maximum(self._blocks.correlations[: len(self.names)], self._reference_alike).clip(max=ALIKE_MAX)
        rows = max(self.rows, PSI_ROWS_MIN) * (1.0 - alike) / (1.0 + alike)
        bounds = psi_bounds(self._sizes, rows=rows, reference_rows=self._signals.rows[: len(self.names)], alpha=self._psi_alpha)
        if self.rows < PSI_ROWS_MIN:
            return np.zeros(len(self.names)), bounds
        return stability_indices(self._rates, self._counts, self._starts, reference_rows=self.profile.rows), bounds

    def against_training(self) -> Json:
        """Return where the e-detectors stand."""
        return {
            "log_e": self._departures.log_e if np.isfinite(self._departures.log_e) else None,
            "bound": self._departures.bound,
            "is_departed": self.is_departed,
        }

    def readings(self) -> list[FeatureReading]:
        """Return every feature as it stands."""
        if self._readings is None:
            self._readings = self._read()
        return self._readings

    def _read(self) -> list[FeatureReading]:
        psi, bounds = self.psi()
        is_judged = (self.is_breached | (psi <= bounds)) & (len(self._slots) > 0 and self._blocks.is_known)
        shares = self.departed_shares if self.is_departed else self._by_feature(self._departures.shares())
        correlations, places = self._blocks.correlations, len(self.names)
        counts = np.split(self._counts, self._starts[1:])
        return [
            FeatureReading(
                feature=feature.name,
                rows=self.rows,
                share=float(shares[at]),
                psi=float(psi[at]),
                psi_bound=float(bounds[at]),
                is_breached=bool(self.is_breached[at]),
                is_judged=bool(is_judged[at]),
                value=_number(self._levels[at]),
                spread=_number(self._levels[places + at]),
                alarms=int(self._alarms[at] + self._alarms[places + at]),
                correlation=float(correlations[at]),
                apart=tuple((counts[at][-len(APART) :] / max(self.rows, 1)).tolist()),
                current=tuple(counts[at].tolist()),
                reference=feature.rates,
            )
            for at, feature in enumerate(self.profile.features)
        ]

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly, but for the profile."""
        return {
            "blocks": self._blocks.state(),
            "departures": self._departures.state(),
            "departed": (self.is_departed, self.departed_shares, self._rows_since),
            "detectors": [detector.state() for detector in self._detectors],
            "lately": (self._levels.copy(), self._alarms.copy(), self._usual.copy()),
            "slots": [(rows, counts.astype(np.int32)) for rows, counts in (*self._slots, self._slot)],
            "is_breached": self.is_breached,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned for the same profile."""
        self._blocks.restore(state["blocks"])
        self._departures.restore(state["departures"])
        self.is_departed, self.departed_shares, self._rows_since = state["departed"]
        for detector, saved in zip(self._detectors, state["detectors"], strict=True):
            detector.restore(saved)
        self._levels, self._alarms, self._usual = state["lately"]
        slots = [(rows, counts.astype(np.int64)) for rows, counts in state["slots"]]
        *full, self._slot = slots
        self._slots = deque(full)
        self.rows = sum(rows for rows, _ in slots)
        self._counts = sum((counts for _, counts in slots), np.zeros(len(self._rates), np.int64))
        self.is_breached = state["is_breached"]
        self._readings = None

    def _by_feature(self, shares: FloatArray) -> FloatArray:
        summed: FloatArray = np.bincount(self._signals.owners, shares, minlength=len(self.names)).astype(np.float64)
        return summed

    def _depart(self, departure: Departure) -> list[Moved]:
        was_departed, self.is_departed, self._rows_since = self.is_departed, True, 0
        shares = departure.shares
        self.departed_shares = self._by_feature(shares)
        if was_departed:
            return []
        subjects, whys = [], []
        for at in np.argsort(-self.departed_shares, kind="stable")[:NAMED_MAX].tolist():
            own = np.where(self._signals.owners == at, shares, 0.0)
            subjects.append(self.names[at])
            whys.append(f"{self.names[at]} {self.departed_shares[at]:.0%} ({self._signals.names[int(own.argmax())]})")
            if float(self.departed_shares[[self.names.index(name) for name in subjects]].sum()) >= NAMED_SHARE:
                break
        is_data = float(shares[self._signals.is_data].sum()) > 0.5
        why = f"unlike training: log e {departure.log_e:.1f} reached {self._departures.bound:.1f}, by {', '.join(whys)}"
        return [Moved(tuple(subjects), Attribution.DATA if is_data else Attribution.WORLD, why)]

    def _detect(self, means: FloatArray) -> list[Moved]:
        """Feed each feature's place and spread to its detector, and say which of them moved lately to where they never were.

        What swings by itself, by the hour or with the season, changes lately all the time: no news while training swung so too.
        """
        said: dict[str, str] = {}
        watched = means[: len(self._detectors)]
        is_known = np.isfinite(watched)
        rows = watched.tolist() if is_known.all() else [one[known].tolist() for one, known in zip(watched, is_known, strict=True)]
        for at, (detector, values) in enumerate(zip(self._detectors, rows, strict=True)):
            if not values:
                continue
            reading = detector.update(values)
            self._levels[at] = np.nan if reading.value is None else reading.value
            self._alarms[at] += reading.alarm_count
            low, high = self._usual[at]
            if reading.alarm_count and not low <= self._levels[at] <= high:
                self._usual[at] = min(low, self._levels[at]), max(high, self._levels[at])
                said.setdefault(self.names[self._signals.owners[at]], f"{self._signals.names[at]} {reading.value:.3f} now")
        return [Moved((name,), Attribution.WORLD, f"changed lately: {name} ({what})") for name, what in said.items()]

    def _slide(self, cells: IntArray) -> list[Moved]:
        """Count cells, and say of each index that has come to exceed its bound when a slot is full."""
        counts = np.bincount((cells + self._starts[:, None]).ravel(), minlength=len(self._counts))
        rows = cells.shape[1]
        self._counts += counts
        self.rows += rows
        self._slot = self._slot[0] + rows, self._slot[1] + counts
        if self._slot[0] < SLOT_ROWS:
            return []
        self._slots.append(self._slot)
        self._slot = 0, np.zeros_like(counts)
        while self.rows - self._slots[0][0] >= WINDOW_ROWS:
            gone, theirs = self._slots.popleft()
            self._counts -= theirs
            self.rows -= gone
        if not self._blocks.is_known:
            return []  # rows that resemble their neighbours are fewer than they seem
        psi, bounds = self.psi()
        was_breached, self.is_breached = self.is_breached, psi > np.where(self.is_breached, bounds / 2.0, bounds)
        return [self._breach(int(at), psi, bounds) for at in np.flatnonzero(self.is_breached & ~was_breached)]

    def _breach(self, at: int, psi: FloatArray, bounds: FloatArray) -> Moved:
        """DATA when the values that have a place lie as they did in training, so that those without one are the breach."""
        feature = self.profile.features[at]
        reference = np.asarray(feature.rates[: -len(APART)])
        counts = self._counts[self._starts[at] : self._starts[at] + len(reference)]
        share, index = float(reference.sum()), 0.0
        if len(counts) > 1 and counts.any() and share > 0.0:
            rows = max(1, round(self.profile.rows * share))
            index = float(stability_indices(reference / share, counts, np.zeros(1, np.int64), reference_rows=rows)[0])
        attribution = Attribution.WORLD if index > bounds[at] else Attribution.DATA
        why = f"unlike training: {feature.name}'s index {psi[at]:.3f} of {self.rows} rows exceeds {bounds[at]:.3f}"
        return Moved((feature.name,), attribution, why)


class LearnedWatch:
    """Columns of which training says nothing: their own first rows are the reference.

    Attributes:
        watch: None until enough rows were seen.
    """

    def __init__(self, made: Callable[[ReferenceProfile], ColumnsWatch]) -> None:
        self._made = made
        self._first: list[Sequence[Array]] = []
        self._rows = 0
        self.watch: ColumnsWatch | None = None

    def feed(self, columns: Sequence[Column], values: Sequence[Array]) -> list[Moved]:
        """Take one array of shape (rows,) for each column, and return what it raised alarms of."""
        if self.watch is not None:
            return self.watch.feed(values)
        self._first.append(values)
        self._rows += len(values[0])
        if self._rows >= LEARN_ROWS:
            first = [np.concatenate(parts) for parts in zip(*self._first, strict=True)]
            self._first = []
            names = [column.name for column in columns]
            self.watch = self._made(build_profile(columns, dict(zip(names, first, strict=True))))
            self.watch.learn(first)
        return []

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly."""
        known = None if self.watch is None else (profile_body(self.watch.profile), self.watch.state())
        return {"first": list(self._first), "rows": self._rows, "watch": known}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._first, self._rows = list(state["first"]), state["rows"]
        if state["watch"] is not None:
            body, saved = state["watch"]
            self.watch = self._made(profile_from_body(body))
            self.watch.restore(saved)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
