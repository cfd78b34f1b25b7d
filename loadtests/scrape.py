"""What a scrape of a large gateway costs: a thousand routes, of which a hundred are called, and then all of them.

`python -m loadtests.scrape` fills a data directory as registration would, starts a gateway with two workers on it, calls, and
times `GET /metrics` on the admin port: seconds, bytes, series, and what found no room.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
from rich.console import Console
from rich.table import Table

from gateway.client import PredictionClient
from gateway.demo.house import House, start_house
from loadtests import load
from loadtests.many import fill
from loadtests.processes import cpu_s, planes

SECONDS_MAX = 1.0
BYTES_MAX = 5_000_000
_SHOWN_S = 3.0  # for the monitor to read what was called and show it


@dataclass(frozen=True, slots=True)
class Scrape:
    """One reading of everything."""

    seconds: float
    cpu_s: float
    bytes: int
    series: int
    lost: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a scrape is slower, larger or less whole than it may be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=1_000)
    parser.add_argument("--called", type=int, default=100)
    parser.add_argument("--calls", type=int, default=20, help="of each route")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table("routes called", "seconds", "CPU seconds", "MB", "series", "updates lost")
    kept = []
    with tempfile.TemporaryDirectory() as scratch:
        fill(Path(scratch), models=asked.routes, has_routes=True)
        house = start_house(Path(scratch), workers=asked.workers)
        try:
            for called in (asked.called, asked.routes):
                found = _scraped(house, called, asked.calls)
                kept.append(found)
                table.add_row(
                    f"{called:,} of {asked.routes:,}",
                    f"{found.seconds:.2f}",
                    f"{found.cpu_s:.2f}",
                    f"{found.bytes / 1e6:.2f}",
                    f"{found.series:,}",
                    f"{found.lost:.0f}",
                )
        finally:
            house.stop()
    console.print(table)
    first = kept[0]
    return 1 if first.seconds > SECONDS_MAX or first.bytes > BYTES_MAX or any(one.lost for one in kept) else 0


def _scraped(house: House, called: int, calls: int) -> Scrape:
    """Call routes on every worker, and return the median of five scrapes."""
    for _ in range(calls):
        with PredictionClient(house.url) as client:  # a connection of its own, which any worker may take
            for number in range(called):
                client.predict(f"m{number}", [[0.0] * load.FEATURES])
    time.sleep(_SHOWN_S)
    taken = [_once(house) for _ in range(5)]
    seconds, cpu = median(one.seconds for one in taken), sum(one.cpu_s for one in taken) / len(taken)
    return Scrape(seconds, cpu, taken[-1].bytes, taken[-1].series, taken[-1].lost)


def _once(house: House) -> Scrape:
    control = planes(house.process.pid)["control"]
    began_s, cpu_began_s = time.perf_counter(), cpu_s(control)
    text = httpx.get(f"{house.admin_url}/metrics", timeout=30).text
    spent_s = time.perf_counter() - began_s
    cpu_spent_s = cpu_s(control) - cpu_began_s
    lost = sum(map(float, re.findall(r"^gateway_metrics_overflow_total{.*} (.+)$", text, re.MULTILINE)))
    return Scrape(spent_s, cpu_spent_s, len(text.encode()), sum(not line.startswith("#") for line in text.splitlines()), lost)


if __name__ == "__main__":
    sys.exit(main())
