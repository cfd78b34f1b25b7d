"""What callers send, and closed load on a server: as fast as the answers come, by wrk.

Throughput is measured closed. Latency is measured open (`loadtests.open_loop`), because callers that wait for their answers hide
the requests that they would have sent to a server which stalls.
"""

from __future__ import annotations

import enum
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.demo.wire import post
from loadtests.processes import OTHER_CORE

FEATURES = 20
KEYS = 1_000  # assignment keys in turn, so that the split has something to hash
TIMEOUT_S = 10  # above what anyone lets 64 callers wait, so that a slow server is shown as slow
INFER = "/v2/models/{route}/infer"

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
{headers}local requests, at = {{}}, 0
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


class Inputs(enum.Enum):
    """The two common forms of one row of `FEATURES` floats."""

    WIDE = "one wide tensor"
    NAMED = f"{FEATURES} named inputs"


def columns() -> list[str]:
    """Return the features' names, which are the named inputs' too."""
    return [f"f{number}" for number in range(FEATURES)]


def body(inputs: Inputs = Inputs.WIDE, *, rows: int = 1, seed: int = 11) -> bytes:
    """Return a request of some rows, with the digits that real numbers have."""
    values = features(rows, seed=seed)
    match inputs:
        case Inputs.WIDE:
            tensors = [_tensor("features", values)]
        case Inputs.NAMED:
            tensors = [_tensor(name, values[:, [at]]) for at, name in enumerate(columns())]
    return json.dumps({"inputs": tensors}).encode()


def features(rows: int, *, seed: int = 11) -> NDArray[np.float64]:
    """Return what `body` sends: shape (rows, `FEATURES`), standard normal, six decimals."""
    return np.random.default_rng(seed).normal(size=(rows, FEATURES)).round(6)


def _tensor(name: str, values: NDArray[np.float64]) -> dict[str, object]:
    return {"name": name, "shape": list(values.shape), "datatype": "FP32", "data": values.ravel().tolist()}


def requests(route: str, inputs: Inputs = Inputs.WIDE, *, host: str) -> list[bytes]:
    """Return whole requests, one for each assignment key."""
    keys = (f"Gateway-Assignment-Key: key-{key}\r\n" for key in range(KEYS))
    return [post(INFER.format(route=route), body(inputs), host=host, headers=key) for key in keys]


def closed(url: str, *, route: str, connections: int, seconds: float, inputs: Inputs = Inputs.WIDE) -> Burst:
    """Load a server with `connections` callers that each wait for their answer."""
    return closed_with(url, body(inputs), route=route, connections=connections, seconds=seconds)


def closed_with(
    url: str, content: bytes, *, route: str, connections: int, seconds: float, headers: Mapping[str, str] | None = None
) -> Burst:
    """Load a server as `closed` does, with a body of any bytes and more headers."""
    escaped = "".join(f"\\{byte:03d}" for byte in content)  # as a Lua string takes any byte
    more = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in (headers or {}).items())
    script = _SCRIPT.format(keys=KEYS, path=INFER.format(route=route), body=escaped, headers=more)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["taskset", "-c", str(OTHER_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s"]
        command += [f"--timeout={TIMEOUT_S}s", "-s", file.name, url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    return Burst(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        p50_us=found["p50_us"],
        p99_us=found["p99_us"],
        errors=found["errors"],
    )
