"""What the forms of a request cost: the same rows as JSON, as binary tensors and over gRPC, beside the endpoint written by hand.

`python -m loadtests.forms` loads all of them in turn on one core and prints medians; only ratios within a run mean something.
Linux with two cores and wrk, as `loadtests.path`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtests import grpc_load, load, model
from loadtests.gateway import ROUTE, measured_gateway
from loadtests.processes import Server, baseline

CONNECTIONS = 64
ROWS = (1, 32)
_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Sent:
    """One contender: a server and what it is sent.

    Attributes:
        grpc: Its address for gRPC where it is sent a message; empty where it is sent HTTP.
    """

    name: str
    server: Server
    body: bytes
    grpc: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each burst")
    asked = parser.parse_args(arguments)
    with contextlib.ExitStack() as running, tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        artifact = model.write_model(directory / "small.onnx")
        by_hand = running.enter_context(baseline("starlette_endpoint", str(artifact)))
        (directory / "data").mkdir()
        with_grpc = {"HEADGATE_SERVING_GRPC_PORT": "0"}
        gateway = running.enter_context(measured_gateway(directory / "data", environment=with_grpc)).server()
        address = json.loads((directory / "data" / "run" / "addresses.json").read_text())["grpc"]
        console = Console(width=None if sys.stdout.isatty() else 110)
        return _measure(console, by_hand, gateway, address, rounds=asked.rounds, seconds=asked.seconds)


def _measure(console: Console, by_hand: Server, gateway: Server, address: str, *, rounds: int, seconds: float) -> int:
    errors = 0
    table = Table(title=f"{load.FEATURES} floats a row, {CONNECTIONS} callers, one core", title_justify="left")
    for column in ("rows", "server and form", "requests/s", "× JSON", "CPU µs"):
        table.add_column(column, justify="left" if column == "server and form" else "right")
    for rows in ROWS:
        contenders = _contenders(by_hand, gateway, address, rows)
        taken = defaultdict[str, list[tuple[float, float]]](list)
        for number in range(rounds + 1):  # the first warms
            for sent in contenders:
                burst, cpu_us = _burst(sent, seconds if number else 1.0)
                errors += burst.errors
                if number:
                    taken[sent.name].append((burst.requests_per_s, cpu_us))
        rates = {name: median(rate for rate, _ in found) for name, found in taken.items()}
        for name, found in taken.items():
            share = f"{rates[name] / rates['gateway, JSON']:.2f}"
            table.add_row(str(rows), name, f"{rates[name]:,.0f}", share, f"{median(cpu for _, cpu in found):.1f}")
        table.add_section()
    console.print(table)
    console.print(f"failed requests: {errors}")
    return 1 if errors else 0


def _contenders(by_hand: Server, gateway: Server, address: str, rows: int) -> tuple[Sent, ...]:
    values = np.random.default_rng(11).normal(size=(rows, load.FEATURES)).round(6).astype(np.float32)
    tensor = {"name": "features", "shape": list(values.shape), "datatype": "FP32"}
    data = [float(str(value)) for value in values.ravel()]  # with the digits that a caller sends
    plain = json.dumps({"inputs": [{**tensor, "data": data}]}).encode()
    asked = {**tensor, "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [asked], "parameters": {"binary_data_output": True}}).encode()
    return (
        Sent("Starlette by hand, JSON", by_hand, plain),
        Sent("gateway, JSON", gateway, plain),
        Sent("gateway, binary", gateway, head + values.tobytes(), headers={_LENGTH: str(len(head))}),
        Sent("gateway, gRPC", gateway, grpc_load.message(ROUTE, values), address),
        Sent("gateway, raw", gateway, values[:1].tobytes(), headers={_LENGTH: "0"}),
    )[: 5 if rows == 1 else 4]  # a raw body is one row


def _burst(sent: Sent, seconds: float) -> tuple[load.Burst, float]:
    before_s = sent.server.cpu_s()
    if sent.grpc:
        burst = grpc_load.closed(sent.grpc, sent.body, connections=CONNECTIONS, seconds=seconds)
    else:
        burst = load.closed_with(
            sent.server.url, sent.body, route=ROUTE, connections=CONNECTIONS, seconds=seconds, headers=sent.headers
        )
    return burst, (sent.server.cpu_s() - before_s) / max(1, burst.requests) * 1e6


if __name__ == "__main__":
    sys.exit(main())
