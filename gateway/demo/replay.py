"""The world of the demonstration: aircraft that leave, ask for a prediction, and arrive.

Departures go out in their order as HTTP requests over a fixed number of connections; the tail number is the assignment key.
When the replay's clock passes an arrival, its true outcome is posted as ground truth, if there is one. The clock is the
departure of the newest request, so that a month passes as fast as the gateway answers, or at the pace that was asked for.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from gateway.demo.flights import Flights
from gateway.demo.training import INPUT
from gateway.demo.wire import Broken, Connection, post

CONNECTIONS: Final = 24  # enough to keep two workers busy, few enough that each answer is quick
TRUTHS_PER_POST: Final = 250
TRUTH_POLL_S: Final = 0.05
PACE_MIN: Final = 100.0  # requests a second, however far behind the monitor is


@dataclass(frozen=True, slots=True)
class Given:
    """One answer that a caller got.

    Attributes:
        flight: Index into the flights.
        probability: Of a late arrival.
        time_s: Wall time when the answer was there, seconds since the epoch.
    """

    flight: int
    prediction_id: str
    version: str
    variant: str
    probability: float
    time_s: float


@dataclass(slots=True)
class Ledger:
    """What callers saw, gathered while the replay runs.

    Attributes:
        failures: A sentence for each request that was not answered with a prediction, the first hundred.
        clock_s: Departure of the newest request, seconds since the epoch.
    """

    given: list[Given] = field(default_factory=list)
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    truths: int = 0
    clock_s: float = 0.0

    def fail(self, sentence: str) -> None:
        """Count a failed request."""
        self.failed += 1
        if len(self.failures) < 100:
            self.failures.append(sentence)


class Replay:
    """Sends flights until it is told to stop or there are no more."""

    def __init__(
        self, flights: Flights, rows: slice, *, host: str, port: int, route: str, token: str, requests_per_s: float
    ) -> None:
        self.ledger = Ledger()
        self._flights = flights
        self._queue: Iterator[int] = iter(range(*rows.indices(len(flights))))
        self._address = (host, port)
        self._path = f"/v2/models/{route}/infer"
        self._token = token
        self._pace_max = self._pace = requests_per_s
        self._due_s = 0.0
        self._arriving: list[tuple[float, str, int]] = []
        self._is_stopping = False

    def stop(self) -> None:
        """Let no further flight leave; `run` returns once every known outcome is posted."""
        self._is_stopping = True

    def follow(self, lag_s: float) -> None:
        """Keep the world's pace to what the monitor follows: a second behind is a day of flights here, not a second."""
        factor = 0.7 if lag_s > 2.0 else 1.15 if lag_s < 1.0 else 1.0
        self._pace = min(self._pace_max, max(PACE_MIN, self._pace * factor))

    async def run(self) -> None:
        """Replay until stopped, then post the outcomes of every flight that is still in the air."""
        self._due_s = time.perf_counter()
        departures = [asyncio.create_task(self._depart()) for _ in range(CONNECTIONS)]
        arrivals = asyncio.create_task(self._arrive(departures))
        await asyncio.gather(*departures, arrivals)

    async def _depart(self) -> None:
        connection = Connection(*self._address)
        for flight in self._queue:
            if self._is_stopping:
                break
            await self._wait_for_turn()
            self.ledger.clock_s = max(self.ledger.clock_s, float(self._flights.departure_s[flight]))
            try:
                await self._predict(connection, flight)
            except (OSError, TimeoutError) as error:
                self.ledger.fail(f"{type(error).__name__}: {error}")
                connection.close()
                connection = Connection(*self._address)
        connection.close()

    async def _wait_for_turn(self) -> None:
        """Keep the pace: one request after the other, none caught up after a pause."""
        now_s, gap_s = time.perf_counter(), 1.0 / self._pace
        self._due_s = max(self._due_s + gap_s, now_s - gap_s)
        if self._due_s > now_s:
            await asyncio.sleep(self._due_s - now_s)

    async def _predict(self, connection: Connection, flight: int) -> None:
        answer = await connection.ask(self._question(flight))
        if answer.status != 200:
            self.ledger.fail(f"{answer.status} {answer.body[:200].decode(errors='replace')}")
            return
        self._keep(flight, orjson.loads(answer.body))

    def _question(self, flight: int) -> bytes:
        row = [None if np.isnan(value) else float(value) for value in self._flights.features[flight]]
        body = orjson.dumps({"inputs": [{"name": INPUT, "shape": [1, len(row)], "datatype": "FP32", "data": row}]})
        key = f"Gateway-Assignment-Key: {self._flights.tails[flight]}\r\n"
        return post(self._path, body, host=self._address[0], headers=key)

    def _keep(self, flight: int, body: dict[str, Any]) -> None:
        given = Given(
            flight=flight,
            prediction_id=body["parameters"]["prediction_id"],
            version=body["model_version"],
            variant=body["parameters"]["variant"],
            probability=next(float(output["data"][1]) for output in body["outputs"] if output["name"] == "probabilities"),
            time_s=time.time(),
        )
        self.ledger.given.append(given)
        if self._flights.arrives[flight]:
            arrival = (float(self._flights.arrival_s[flight]), given.prediction_id, int(self._flights.is_late[flight]))
            heapq.heappush(self._arriving, arrival)

    async def _arrive(self, departures: list[asyncio.Task[None]]) -> None:
        connection = Connection(*self._address)
        while not all(task.done() for task in departures) or self._arriving:
            is_over = all(task.done() for task in departures)
            batch = self._landed(until_s=float("inf") if is_over else self.ledger.clock_s)
            if batch:
                connection = await self._post_truth(connection, batch)
            else:
                await asyncio.sleep(TRUTH_POLL_S)
        connection.close()

    def _landed(self, *, until_s: float) -> list[dict[str, object]]:
        batch: list[dict[str, object]] = []
        while self._arriving and self._arriving[0][0] <= until_s and len(batch) < TRUTHS_PER_POST:
            _, prediction_id, is_late = heapq.heappop(self._arriving)
            batch.append({"prediction_id": prediction_id, "value": is_late})
        return batch

    async def _post_truth(self, connection: Connection, batch: list[dict[str, object]]) -> Connection:
        request = post(
            "/api/v1/ground-truth",
            orjson.dumps({"records": batch}),
            host=self._address[0],
            headers=f"Authorization: Bearer {self._token}\r\n",
        )
        try:
            answer = await connection.ask(request)
        except (Broken, OSError, TimeoutError) as error:
            self.ledger.fail(f"ground truth: {type(error).__name__}: {error}")
            return Connection(*self._address)
        if answer.status >= 300:
            self.ledger.fail(f"ground truth: {answer.status} {answer.body[:200].decode(errors='replace')}")
        else:
            self.ledger.truths += len(batch)
        return connection
