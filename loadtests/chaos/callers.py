"""Callers that note everything: each answer with its times, each connection that ended early and how, each prediction's id."""

from __future__ import annotations

import asyncio
import enum
import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Self, cast

import numpy as np
import orjson
import uvloop

from gateway.demo.wire import HEAD_END, post

FEATURES = 20
ROUTE = "small"
SILENCE_S = 20.0  # four times a route's default deadline
AGAIN_S = 0.02  # before a caller that was refused connects again


class Loss(enum.Enum):
    """How a request can end without a whole answer."""

    REFUSED = "connection refused"
    UNANSWERED = "closed before a byte of the answer"
    TORN = "closed within the answer"
    SILENT = "no answer in time"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes


@dataclass(slots=True)
class Seen:
    """What callers saw.

    Attributes:
        answers: When each was sent and answered (monotonic s), and its status.
        losses: When each was noticed, and how.
        acknowledged: Prediction ids of 200 answers.
    """

    answers: list[tuple[float, float, int]] = field(default_factory=list)
    losses: list[tuple[float, Loss]] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)

    def statuses(self) -> Counter[int]:
        """Return how many answers had each status."""
        return Counter(status for _, _, status in self.answers)

    def lost(self, *kinds: Loss) -> int:
        """Return how many requests were lost in these ways."""
        return sum(loss in kinds for _, loss in self.losses)

    def good_since(self, start_s: float) -> list[float]:
        """Return when each good answer came whose request was sent after `start_s`, in order."""
        return sorted(done_s for sent_s, done_s, status in self.answers if status == 200 and sent_s >= start_s)

    def first_good_s(self, harm_s: float) -> float:
        """Return the seconds from the harm to the first good answer to a later request."""
        return min(self.good_since(harm_s), default=float("inf")) - harm_s

    def rate_back_s(self, harm_s: float, *, bin_s: float = 0.1) -> float:
        """Return the seconds from the harm until each tenth of a second since carried half the rate of the two seconds before."""
        good = np.array([done_s for _, done_s, status in self.answers if status == 200]) - harm_s
        usual = np.count_nonzero((good >= -2.0) & (good < 0)) / 2.0 * bin_s
        edges = np.arange(0.0, max(float(good.max(initial=0.0)), 2 * bin_s), bin_s)
        counts, _ = np.histogram(good, edges)
        thin = np.flatnonzero(counts < usual / 2)
        return 0.0 if not len(thin) else float(edges[thin[-1] + 1])

    def slowest_s(self) -> float:
        """Return how long the slowest good answer took."""
        return max((done_s - sent_s for sent_s, done_s, status in self.answers if status == 200), default=float("inf"))

    def longest_gap_s(self) -> float:
        """Return the longest time without any good answer."""
        times = sorted(done_s for _, done_s, status in self.answers if status == 200)
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=float("inf"))


def row_body(first: float | None = None, *, seed: int = 11) -> bytes:
    """Return a request of one row of 20 floats; `first` replaces its first number."""
    row = [round(float(value), 6) for value in np.random.default_rng(seed).normal(size=FEATURES)]
    row[0] = row[0] if first is None else first
    return json.dumps({"inputs": [{"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": row}]}).encode()


def infer(first: float | None = None, *, seed: int = 11, route: str = ROUTE, version: str = "", headers: str = "") -> bytes:
    """Return the bytes of a prediction's request."""
    path = f"/v2/models/{route}" + (f"/versions/{version}" if version else "") + "/infer"
    return post(path, row_body(first, seed=seed), host="h", headers=headers)


class Caller(asyncio.Protocol):
    """One keep-alive connection that honours `Connection: close`, one request at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._waiting: asyncio.Future[Answer | Loss] | None = None

    async def ask(self, request: bytes) -> Answer | Loss:
        """Send a request, over a new connection where there is none; return how it ended."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            try:
                await loop.create_connection(lambda: self, *self._address)
            except OSError:
                return Loss.REFUSED
        if self._transport is None:
            return Loss.UNANSWERED
        self._received, self._waiting = b"", loop.create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._waiting, SILENCE_S)
        except TimeoutError:
            self.close()
            return Loss.SILENT

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell who waits."""
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Loss.TORN if self._received else Loss.UNANSWERED)

    def data_received(self, data: bytes) -> None:
        """Hand over an answer once it is whole."""
        self._received += data
        head, separator, body = self._received.partition(HEAD_END)
        if not separator or self._waiting is None or self._waiting.done():
            return
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        if b"connection: close" in head and self._transport is not None:
            self._transport.close()
            self._transport = None
        self._waiting.set_result(Answer(int(head[9:12]), body[:length]))


class Traffic:
    """Callers in a thread of their own, from `with` until its end.

    Args:
        rate: Requests a second of all callers together; None: as fast as answers come.
        requests: Sent in turn.
    """

    def __init__(
        self, address: tuple[str, int], *, rate: float | None = 400.0, callers: int = 16, requests: list[bytes] | None = None
    ) -> None:
        self.seen = Seen()
        self._address = address
        self._rate = rate
        self._callers = callers
        self._requests = requests or [infer(headers=f"Gateway-Assignment-Key: key-{key}\r\n") for key in range(200)]
        self._turn = 0
        self._is_over = False
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="callers")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every caller finish its request."""
        self._is_over = True
        self._thread.join()

    async def _run(self) -> None:
        self._start_s = time.monotonic()
        await asyncio.gather(*(self._call() for _ in range(self._callers)))

    async def _call(self) -> None:
        caller = Caller(self._address)
        while not self._is_over:
            turn, self._turn = self._turn, self._turn + 1
            if self._rate is not None:
                await asyncio.sleep(max(0.0, self._start_s + turn / self._rate - time.monotonic()))
            sent_s = time.monotonic()
            self._note(sent_s, result := await caller.ask(self._requests[turn % len(self._requests)]))
            if result is Loss.REFUSED:
                await asyncio.sleep(AGAIN_S)
        caller.close()

    def _note(self, sent_s: float, result: Answer | Loss) -> None:
        done_s = time.monotonic()
        if isinstance(result, Loss):
            self.seen.losses.append((done_s, result))
            return
        self.seen.answers.append((sent_s, done_s, result.status))
        if result.status == 200:
            body = orjson.loads(result.body)
            self.seen.acknowledged.append(body["parameters"]["prediction_id"])
            self.seen.versions[body["model_version"]] += 1
