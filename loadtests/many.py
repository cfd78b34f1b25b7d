"""A thousand small versions registered: time to ready, memory of each process, throughput with one and with many in rotation.

`python -m loadtests.many` fills a data directory as registration would (each version with its reference profile), starts a
gateway on it and prints. `--routes` gives every model a route; without, each is called by its name and its champion answers.

Requests for one model share its runs, those for many models do not. So one model is also measured that never joins requests: what
it loses is the price of a run for each request, and what many lose beyond that the price of being many.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console

from adapters.clock import SystemClock
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.registry import SqliteRegistry
from adapters.validation.process import ProcessValidator
from gateway.client import PredictionClient
from gateway.core.changes import Change, PutChampion, PutRoute, PutVersion, Write
from gateway.core.metadata import metadata_from_body
from gateway.core.models import Batching, Digest, Runtime, Version
from gateway.core.routes import champion_route
from gateway.core.tensors import Signature
from gateway.demo.house import House, start_house
from loadtests import load, model
from loadtests.processes import OTHER_CORE, cpu_s, pin_gateway, planes

CONNECTIONS = 64
ALONE = "alone"  # the model that never joins requests

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local requests, at = {{}}, 0
local names = {{{names}}}
function init(args)
  for number, name in ipairs(names) do
    requests[number] = wrk.format("POST", "/v2/models/" .. name .. "/infer", nil, '{body}')
  end
end
function request()
  at = at % #names + 1
  return requests[at]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{{"requests":%d,"duration_us":%d,"errors":%d}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one run of closed load gave."""

    requests_per_s: float
    cpu_us: float
    errors: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--rotation", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--routes", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        fill(directory, models=asked.models, has_routes=asked.routes)
        began_s = time.monotonic()
        house = start_house(directory, workers=asked.workers)
        try:
            ready_s = time.monotonic() - began_s
            first_s = _first(house, began_s)
            console.print(f"{asked.models:,} models: ready after {ready_s:.2f} s, first prediction after {first_s:.2f} s")
            console.print(f"memory: {_memory(house)}")
            errors = _print_rotation(console, house, asked)
            console.print(f"memory: {_memory(house)}")
        finally:
            house.stop()
    return 1 if errors else 0


def fill(directory: Path, *, models: int, has_routes: bool) -> None:
    """Write models m0, m1, … with one version each, validated once for all because they differ in their weights alone."""
    clock = SystemClock()
    registry, artifacts = SqliteRegistry(directory / "registry.db", clock=clock), DirectoryArtifacts(directory / "artifacts")
    reference = model.write_reference(directory / "reference.csv")
    like = validated(model.write_model(directory / "first.onnx"), reference)
    for number in range(models):
        staged = model.write_model(Path(artifacts.staging()), seed=number)
        content = staged.read_bytes()
        digest = Digest(hashlib.sha256(content).hexdigest())
        artifacts.put(staged, digest)
        name = f"m{number}"
        writes: list[Write] = [PutVersion(replace(like, model=name, digest=digest)), PutChampion(name, like.version)]
        if has_routes:
            writes.append(PutRoute(champion_route(name, like.version)))
        registry.commit(Change("loadtest", "version.register", f"model:{name}", "", tuple(writes)))
    made = replace(like, model=ALONE, digest=digest, batching=Batching(rows_max=1))
    registry.commit(Change("loadtest", "version.register", f"model:{ALONE}", "", (PutVersion(made), PutChampion(ALONE, "1"))))
    registry.close()


def validated(artifact: Path, reference: Path) -> Version:
    """Return the version that registration would make of an artifact, by another name."""
    metadata = metadata_from_body(model.metadata())
    digest = Digest(hashlib.sha256(artifact.read_bytes()).hexdigest())
    stated = Version(
        model="m",
        version="1",
        digest=digest,
        size_bytes=artifact.stat().st_size,
        runtime=Runtime.ONNX,
        runtime_version="",
        signature=Signature((), ()),
        target=metadata.target,
        columns=metadata.columns,
    )
    return ProcessValidator(timeout_s=60.0, memory_bytes=4 * 2**30).validate(artifact, reference, stated)


def _first(house: House, began_s: float) -> float:
    with PredictionClient(house.url) as client:
        client.predict("m0", [[0.0] * load.FEATURES])
    return time.monotonic() - began_s


def _print_rotation(console: Console, house: House, asked: argparse.Namespace) -> int:
    """Print throughput with one and with many names in turn, in neighbouring runs; return the number of errors."""
    pin_gateway(house.process.pid)
    callings = [["m0"], [ALONE], [f"m{number}" for number in range(asked.rotation)]]
    for names in callings:
        _closed(house, names=names, seconds=1)  # loads what is called for the first time
    taken = [[_closed(house, names=names, seconds=asked.seconds) for names in callings] for _ in range(asked.rounds)]
    for at, what in enumerate(("one", "one that never joins requests", f"{asked.rotation} in rotation")):
        rate, cpu_us = (median(getattr(turns[at], field) for turns in taken) for field in ("requests_per_s", "cpu_us"))
        share, cost = (
            median(getattr(turns[at], field) / getattr(turns[0], field) for turns in taken)
            for field in ("requests_per_s", "cpu_us")
        )
        console.print(
            f"{what}: {rate:,.0f} requests/s, {cpu_us:.0f} µs of the workers' CPU each ({share:.0%} and {cost:.0%} of one's)"
        )
    errors = sum(turn.errors for turns in taken for turn in turns)
    console.print(f"{errors} errors")
    return errors


def _closed(house: House, *, names: Sequence[str], seconds: int) -> Turn:
    """Load the gateway with callers that go through some models in turn."""
    workers = [pid for name, pid in planes(house.process.pid).items() if name.startswith("w")]
    before_s = sum(map(cpu_s, workers))
    script = _SCRIPT.format(names=", ".join(f'"{name}"' for name in names), body=load.body().decode())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [
            "taskset",
            "-c",
            str(OTHER_CORE),
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds}s",
            "-s",
            file.name,
            house.url,
        ]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    cpu_us = (sum(map(cpu_s, workers)) - before_s) / found["requests"] * 1e6
    return Turn(found["requests"] / found["duration_us"] * 1e6, cpu_us, found["errors"])


def pss_mib(pid: int) -> float:
    """Return a process's share of the memory that it and others map."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _memory(house: House) -> str:
    found = {name: pss_mib(pid) for name, pid in sorted(planes(house.process.pid).items())}
    found["supervisor"] = pss_mib(house.process.pid)
    return ", ".join(f"{name} {mib:.0f}" for name, mib in found.items()) + f" MiB (PSS); {sum(found.values()):.0f} together"


if __name__ == "__main__":
    raise SystemExit(main())
