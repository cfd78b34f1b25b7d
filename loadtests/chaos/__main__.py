"""`python -m loadtests.chaos`: every scenario in turn, what was seen and measured, exit code 1 when a claim did not hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from loadtests.chaos import churn, clients, deaths, instances, surroundings
from loadtests.chaos.world import Report

Scenario = Callable[[Path], Report]


def scenarios(minutes: float, rate: float) -> Mapping[str, Scenario]:
    """Return every scenario by its name."""
    return {
        "worker-killed": deaths.worker_killed,
        "one-of-two-workers-killed": partial(deaths.worker_killed, workers=2),
        "others-killed": deaths.others_killed,
        "segfault": deaths.model_segfaults,
        "challenger-segfaults": deaths.challenger_segfaults,
        "seized": deaths.model_seizes,
        "stuck": deaths.model_sticks,
        "instance": instances.instance_dies_and_hangs,
        "stopped": deaths.stopped_at_full_load,
        "stopped-twice": partial(deaths.stopped_at_full_load, signals=2, times=1),
        "slow": clients.slow,
        "vanishing": clients.vanishing,
        "unread": clients.unread,
        "idle": clients.idle,
        "mutated": clients.mutated,
        "bombs": clients.bombs,
        "log-cannot-grow": surroundings.log_cannot_grow,
        "disk-full": surroundings.disk_full,
        "disk-full-pickled": instances.instance_dies_on_full_disk,
        "registry-locked": surroundings.registry_locked,
        "clock": surroundings.clock_steps,
        "churn": partial(churn.churn, minutes=minutes, rate=rate),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="loadtests.chaos", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", choices=list(scenarios(0, 0)), help="may be repeated")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the churn")
    parser.add_argument("--rate", type=float, default=100.0, help="of the churn, in requests a second; its changes follow")
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    failed = 0
    for name, scenario in scenarios(asked.minutes, asked.rate).items():
        if asked.only and name not in asked.only:
            continue
        start_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
            report = scenario(Path(scratch))
        failed += bool(report.failures)
        console.print(f"[bold]{report.name}[/bold] ({name}, {time.monotonic() - start_s:.0f} s)", highlight=False)
        for fact in report.facts:
            console.print(f"  {fact}", highlight=False)
        for failure in report.failures:
            console.print(f"  [red]✗ {failure}[/red]", highlight=False)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
