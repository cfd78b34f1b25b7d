"""Two ways to put load on a server: closed (wrk: as fast as the answers come) and open (a fixed rate, whatever the answers do).

Throughput is measured closed. Latency is measured open, from the moment a request was due, so that a server which stalls
cannot hide the requests that would have been sent meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import uvloop

from gateway.demo.wire import Connection, post
from loadtests.processes import OTHER_CORE

FEATURES = 20
KEYS = 1_000  # assignment keys in turn, so that the split has something to hash
OPEN_RATE_MAX = 6_000.0  # what this generator sends on time from one core; above it would measure itself
INFER = "/v2/models/{route}/infer"

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local requests, at = {{}}, 0
function init(args)
  for key = 1, {keys} do
    wrk.headers["Gateway-Assignment-Key"] = "key-" .. key
    requests[key] = wrk.format("POST", "{path}", nil, '{body}')
  end
end
function request()
  at = at % {keys} + 1
  return requests[at]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"errors":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Burst:
    """What one run of load gave."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int

    @property
    def requests_per_s(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def body(seed: int = 11) -> bytes:
    """Return a request of one row of 20 floats in one wide tensor, with the digits that real numbers have."""
    row = [round(float(value), 6) for value in np.random.default_rng(seed).normal(size=FEATURES)]
    return json.dumps({"inputs": [{"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": row}]}).encode()


def closed(url: str, *, route: str, connections: int, seconds: float) -> Burst:
    """Load a server with `connections` callers that each wait for their answer."""
    script = _SCRIPT.format(keys=KEYS, path=INFER.format(route=route), body=body().decode())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["taskset", "-c", str(OTHER_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", file.name, url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    return Burst(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        p50_us=found["p50_us"],
        p99_us=found["p99_us"],
        errors=found["errors"],
    )


def opened(url: str, *, route: str, requests_per_s: float, seconds: float, connections: int = 64) -> Burst:
    """Load a server at a fixed rate; latency counts from when a request was due."""
    return uvloop.run(_opened(url, route=route, requests_per_s=requests_per_s, seconds=seconds, connections=connections))


async def _opened(url: str, *, route: str, requests_per_s: float, seconds: float, connections: int) -> Burst:
    host, _, port = url.removeprefix("http://").rpartition(":")
    requests = [
        post(INFER.format(route=route), body(), host=host, headers=f"Gateway-Assignment-Key: key-{key}\r\n")
        for key in range(KEYS)
    ]
    latencies_us: list[float] = []
    errors = 0
    start_s = time.perf_counter() + 0.1
    count = int(requests_per_s * seconds)
    turns = iter(range(count))

    async def call() -> None:
        nonlocal errors
        connection = Connection(host, int(port))
        for turn in turns:
            due_s = start_s + turn / requests_per_s
            if (wait_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            answer = await connection.ask(requests[turn % KEYS])
            latencies_us.append((time.perf_counter() - due_s) * 1e6)
            errors += answer.status != 200
        connection.close()

    await asyncio.gather(*(call() for _ in range(connections)))
    p50_us, p99_us = np.percentile(latencies_us, [50, 99])
    return Burst(count, time.perf_counter() - start_s, float(p50_us), float(p99_us), errors)
