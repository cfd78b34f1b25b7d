"""How long a rolled-back version still answers: a running gateway under load, from each commit to the last answer."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import uvloop

from gateway.client import AdminClient
from gateway.demo.wire import Connection
from loadtests import load
from loadtests.detection.lines import Asked, Line, interval, judged
from loadtests.gateway import ROUTE, measured_gateway

LIMIT_S = 1.0
LISTEN_S = 1.2  # after each commit, longer than the limit, so that a late answer is seen
CONNECTIONS = 32
RATE_MAX = 6_000.0  # what callers that look at every answer send on time from one core
CHALLENGER = "2"


@dataclass(slots=True)
class Seen:
    """What callers got.

    Attributes:
        bad_s: Wall time of each answer of the challenger.
    """

    answers: int = 0
    failed: int = 0
    bad_s: list[float] = field(default_factory=list)
    is_over: bool = False


def stopped_lines(asked: Asked) -> Iterator[Line]:
    """Yield how long versions answered after their rollback was committed, and how many requests failed meanwhile."""
    count = asked.of(2, 50, 300)
    with tempfile.TemporaryDirectory() as scratch, measured_gateway(Path(scratch), workers=2, is_pinned=False) as gateway:
        full = load.closed(gateway.house.url, route=ROUTE, connections=64, seconds=3)
        rate = min(full.requests_per_s / 2, RATE_MAX)  # with the generator on the same cores this is over half of them
        with gateway.house.admin() as admin:
            seen, lasts_s = uvloop.run(_rounds(admin, gateway.house.address, rate, count))
    p50, p99 = np.percentile(lasts_s, [50, 99])
    slow = sum(last_s > LIMIT_S for last_s in lasts_s)
    found = f"p50 {p50:.3f} s, p99 {p99:.3f} s, worst {max(lasts_s):.3f} s of {count}"
    certain = f"over 1 s: {slow} (≤ {interval(slow, count)[1]:.1%})"
    what = f"commit to the last bad answer, {rate:,.0f} requests/s"
    yield Line(what, "p99 ≤ 1 s", found, "controllers: 5–10 min", judged(bool(p99 <= LIMIT_S), is_sure=count >= 20))
    yield Line("", "", certain)
    answers = f"{seen.failed} of {seen.answers:,}, {len(seen.bad_s):,} of them by the challenger"
    yield Line("requests that failed", "0", answers, "", judged(seen.failed == 0))


async def _rounds(admin: AdminClient, address: tuple[str, int], rate: float, count: int) -> tuple[Seen, list[float]]:
    seen = Seen()
    traffic = asyncio.create_task(_traffic(seen, address, rate))
    lasts_s = [await _round(admin, seen) for _ in range(count)]
    seen.is_over = True
    await traffic
    return seen, lasts_s


async def _round(admin: AdminClient, seen: Seen) -> float:
    """Roll the challenger out to half of the keys and back; return seconds from the commit to its last answer."""
    plan = {"steps": [5_000], "advances_itself": False, "rollouts_per_year": 100_000}
    rollout = await asyncio.to_thread(lambda: admin.start_rollout(ROUTE, CHALLENGER, plan=plan, reason="to be rolled back"))
    before = len(seen.bad_s)
    await asyncio.wait_for(_answers(seen, before + 100), timeout=10)  # it really answers
    await asyncio.to_thread(lambda: admin.move_rollout(ROUTE, str(rollout["id"]), "rollback", reason="measured"))
    await asyncio.sleep(LISTEN_S)
    entry = (await asyncio.to_thread(lambda: admin.latest_audit(1)))[0]
    return max(0.0, seen.bad_s[-1] - float(str(entry["time_s"])))


async def _answers(seen: Seen, count: int) -> None:
    while len(seen.bad_s) < count:  # noqa: ASYNC110 - an event set for each answer would cost more than it saves
        await asyncio.sleep(0.01)


async def _traffic(seen: Seen, address: tuple[str, int], rate: float) -> None:
    """Send at a fixed rate over keys in turn until it is over."""
    host, port = address
    requests = load.requests(ROUTE, host=host)
    start_s, turn = time.perf_counter(), 0

    async def call() -> None:
        nonlocal turn
        connection = Connection(host, port)
        while not seen.is_over:
            turn += 1
            await asyncio.sleep(max(0.0, start_s + turn / rate - time.perf_counter()))
            answer = await connection.ask(requests[turn % load.KEYS])
            seen.answers += 1
            if answer.status != 200:
                seen.failed += 1
            elif orjson.loads(answer.body)["model_version"] == CHALLENGER:
                seen.bad_s.append(time.time())
        connection.close()

    await asyncio.gather(*(call() for _ in range(CONNECTIONS)))
