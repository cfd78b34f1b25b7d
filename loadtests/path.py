"""What the prediction path costs beside an empty application and beside what a person would write by hand.

`python -m loadtests.path` measures everything in one run on one machine, interleaved (A B C D, A B C D, …), and prints medians:
only ratios within a run mean something. Linux with two cores and wrk; see loadtests/README.md for how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from loadtests import load, model, stages
from loadtests.gateway import ROUTE, SHADOWED, Measured, measured_gateway
from loadtests.processes import Server, baseline, cpu_s, renice

CONNECTIONS = (1, 16, 64)
RAW, STARLETTE, FASTAPI, GATEWAY = "empty ASGI app", "Starlette by hand", "FastAPI", "gateway"
UNLOGGED, WITH_SHADOW = "gateway, no log or monitor", "gateway, every request shadowed"


@dataclass(frozen=True, slots=True)
class Sample:
    """One burst on one server, with the CPU time of its process a request."""

    burst: load.Burst
    cpu_us: float


Samples = dict[tuple[str, int], list[Sample]]


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that runs while it is measured."""

    gateway: Measured
    served: Server
    unlogged: Server
    baselines: tuple[Server, ...]
    rounds: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a request failed or the monitor did not catch up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each burst")
    asked = parser.parse_args(arguments)
    with contextlib.ExitStack() as running, tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        artifact = model.write_model(directory / "small.onnx")
        raw = running.enter_context(baseline("raw", str(artifact), name=RAW))
        starlette = running.enter_context(baseline("starlette_endpoint", str(artifact), name=STARLETTE))
        fastapi = running.enter_context(baseline("fastapi_endpoint", str(artifact), name=FASTAPI))
        (directory / "data").mkdir()
        gateway = running.enter_context(measured_gateway(directory / "data"))
        unlogged = running.enter_context(baseline("unlogged", str(gateway.house.data_dir), name=UNLOGGED))
        served = gateway.server(GATEWAY)
        bench = Bench(gateway, served, unlogged, (raw, starlette, fastapi), asked.rounds, asked.seconds)
        return _measure(Console(width=None if sys.stdout.isatty() else 110), bench, artifact)


def _measure(console: Console, bench: Bench, artifact: Path) -> int:
    samples = defaultdict[tuple[str, int], list[Sample]](list)
    gateway, monitor = bench.gateway, bench.gateway.planes["monitor"]
    _warm((*bench.baselines, bench.unlogged, bench.served))
    before_s, before = cpu_s(monitor), gateway.records()
    for number in range(bench.rounds):
        with console.status(f"round {number + 1} of {bench.rounds}"):
            _round(bench, samples)
    with console.status("waiting for the monitor"):
        behind_s = gateway.caught_up_s()
    per_record_us = (cpu_s(monitor) - before_s) / max(1, gateway.records() - before) * 1e6
    _print_path(console, samples)
    _print_pairs(console, samples)
    _print_latency(console, bench, rate=_rate(samples, GATEWAY, CONNECTIONS[-1]) / 2)
    stages.print_stages(console, artifact)
    console.print(f"monitor: {per_record_us:.1f} µs CPU a record, caught up {behind_s:.1f} s after the load ended")
    errors = sum(sample.burst.errors for taken in samples.values() for sample in taken)
    console.print(f"failed requests: {errors}")
    return 1 if errors else 0


def _round(bench: Bench, samples: Samples) -> None:
    for connections in CONNECTIONS:
        for server in (*bench.baselines, bench.served):
            samples[server.name, connections].append(_burst(server, ROUTE, connections, bench.seconds))
    shadowed = replace(bench.served, name=WITH_SHADOW)
    for server, route in ((bench.unlogged, ROUTE), (bench.served, ROUTE), (shadowed, SHADOWED)):
        samples[_paired(server.name), CONNECTIONS[-1]].append(_burst(server, route, CONNECTIONS[-1], bench.seconds))


def _paired(name: str) -> str:
    return f"{name} (paired)"


def _warm(servers: Sequence[Server]) -> None:
    for server in servers:
        load.closed(server.url, route=ROUTE, connections=CONNECTIONS[-1], seconds=1)


def _burst(server: Server, route: str, connections: int, seconds: float) -> Sample:
    before_s = server.cpu_s()
    burst = load.closed(server.url, route=route, connections=connections, seconds=seconds)
    return Sample(burst, (server.cpu_s() - before_s) / max(1, burst.requests) * 1e6)


def _rate(samples: Samples, name: str, connections: int) -> float:
    return median(sample.burst.requests_per_s for sample in samples[name, connections])


def _cpu(samples: Samples, name: str, connections: int) -> float:
    return median(sample.cpu_us for sample in samples[name, connections])


def _print_path(console: Console, samples: Samples) -> None:
    table = Table(title="One row of 20 floats, one core, medians", title_justify="left")
    for column in ("server", "connections", "requests/s", "× by hand", "CPU µs", "× by CPU", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for connections in CONNECTIONS:
        by_hand = _rate(samples, STARLETTE, connections)
        for name in (RAW, STARLETTE, FASTAPI, GATEWAY):
            rate = _rate(samples, name, connections)
            taken = samples[name, connections]
            table.add_row(
                name,
                str(connections),
                f"{rate:,.0f}",
                f"{rate / by_hand:.2f}",
                f"{_cpu(samples, name, connections):.1f}",
                f"{_cpu(samples, STARLETTE, connections) / _cpu(samples, name, connections):.2f}",
                f"{median(sample.burst.p50_us for sample in taken) / 1e3:.2f}",
                f"{median(sample.burst.p99_us for sample in taken) / 1e3:.2f}",
                end_section=name == GATEWAY,
            )
    console.print(table)


def _print_pairs(console: Console, samples: Samples) -> None:
    connections = CONNECTIONS[-1]
    on, off, shadowed = map(_paired, (GATEWAY, UNLOGGED, WITH_SHADOW))
    table = Table(title=f"Paired, {connections} connections", title_justify="left")
    for column in ("what", "requests/s", "throughput lost", "CPU µs more"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, with_it, without in (("log and monitor", on, off), ("a shadow of every request", shadowed, on)):
        # Neighbours in a round are compared with each other, so that a slow minute of the machine hits both sides.
        pairs = list(zip(samples[with_it, connections], samples[without, connections], strict=True))
        lost = median(1 - one.burst.requests_per_s / other.burst.requests_per_s for one, other in pairs)
        more = median(one.cpu_us - other.cpu_us for one, other in pairs)
        table.add_row(name, f"{_rate(samples, with_it, connections):,.0f}", f"{lost:.1%}", f"{more:+.1f}")
    console.print(table)


def _print_latency(console: Console, bench: Bench, *, rate: float) -> None:
    """Print latency at half of the gateway's own throughput, or at the most that the generator sends on time."""
    rate = min(rate, load.OPEN_RATE_MAX)
    # The monitor shares the load generator's core; it steps back, or its turns would be measured as the server's latency.
    for plane in ("monitor", "control", "archive"):
        renice(bench.gateway.planes[plane])
    bursts: dict[str, list[load.Burst]] = {bench.served.name: [], bench.unlogged.name: []}
    for _ in range(bench.rounds):
        for server in (bench.served, bench.unlogged):
            bursts[server.name].append(load.opened(server.url, route=ROUTE, requests_per_s=rate, seconds=bench.seconds))
    table = Table(title=f"Latency at half load ({rate:,.0f} requests/s, open loop)", title_justify="left")
    for column in ("server", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for name, taken in bursts.items():
        p50, p99 = (median(getattr(burst, field) for burst in taken) / 1e3 for field in ("p50_us", "p99_us"))
        table.add_row(name, f"{p50:.2f}", f"{p99:.2f}")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
