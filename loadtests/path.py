"""What the prediction path costs beside an empty application and beside what a person would write by hand.

`python -m loadtests.path` measures everything in one run on one machine, in turn, and prints medians: only ratios within a run
mean something. Linux with two cores and wrk; see loadtests/README.md for how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from loadtests.bench import Bench, Samples, running_bench
from loadtests.latency import measure_latency
from loadtests.processes import cpu_s
from loadtests.stages import print_stages
from loadtests.throughput import measure_pairs, measure_path


class Part(enum.StrEnum):
    """What can be measured by itself."""

    THROUGHPUT = "throughput"
    PAIRS = "pairs"
    LATENCY = "latency"
    STAGES = "stages"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a request failed or a fixed rate was not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=1, help="of each burst")
    parser.add_argument("--only", type=Part, choices=list(Part), action="append", help="this part; may be repeated")
    asked = parser.parse_args(arguments)
    parts, console = set(asked.only or Part), Console(width=None if sys.stdout.isatty() else 120)
    is_good = True
    if parts - {Part.STAGES}:
        with tempfile.TemporaryDirectory() as directory, running_bench(Path(directory)) as bench:
            is_good = _measured(console, bench, parts, rounds=asked.rounds, seconds=asked.seconds)
    if Part.STAGES in parts:
        print_stages(console)
    return 0 if is_good else 1


def _measured(console: Console, bench: Bench, parts: set[Part], *, rounds: int, seconds: float) -> bool:
    """Measure what needs servers; return whether every request was answered and a fixed rate kept."""
    errors, is_kept = 0, True
    has_load = bool(parts & {Part.THROUGHPUT, Part.PAIRS})
    with _monitor_cost(console, bench) if has_load else contextlib.nullcontext():
        if Part.THROUGHPUT in parts:
            errors += _errors(measure_path(console, bench, rounds=rounds, seconds=seconds))
        if Part.PAIRS in parts:
            errors += _errors(measure_pairs(console, bench, rounds=rounds, seconds=seconds))
    if Part.LATENCY in parts:
        is_kept = measure_latency(console, bench, rounds=rounds, seconds=seconds)
        if not is_kept:
            console.print("latency at half load is not valid: requests failed, or were not sent at the rate")
    console.print(f"failed requests under closed load: {errors}")
    return errors == 0 and is_kept


@contextlib.contextmanager
def _monitor_cost(console: Console, bench: Bench) -> Iterator[None]:
    """Print what the monitor took for each record that was written meanwhile, once it has read them all."""
    gateway, monitor = bench.gateway, bench.gateway.planes["monitor"]
    gateway.caught_up_s()
    before_s, before = cpu_s(monitor), gateway.records()
    yield
    with console.status("waiting for the monitor"):
        behind_s = gateway.caught_up_s()
    per_record_us = (cpu_s(monitor) - before_s) / max(1, gateway.records() - before) * 1e6
    console.print(f"monitor: {per_record_us:.1f} µs CPU a record, caught up {behind_s:.1f} s after the load ended")


def _errors(samples: Samples) -> int:
    return sum(sample.burst.errors for taken in samples.values() for sample in taken)


if __name__ == "__main__":
    raise SystemExit(main())
