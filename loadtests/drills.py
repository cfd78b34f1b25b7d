"""What drills find, how soon, and what they cost: `python -m loadtests.drills` runs each kind a hundred times; about a minute."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from adapters.detectors.river import AdwinDetector
from gateway.monitor.exercise import Drill, Ending, Exercise, Report
from gateway.settings import MonitorSettings

BEGIN_S = 1_700_000_000.0
SOUND = {Drill.AA: Ending.QUIET, Drill.DRIFT: Ending.DETECTED, Drill.HARM: Ending.DETECTED}
SOUND_SHARE_MIN = 0.9  # of a kind's drills; A/A may alarm in four of a hundred by its budget


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drills and print; return 1 when a kind ends otherwise than it should more often than its budget explains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drills", type=int, default=100, help="of each kind")
    asked = parser.parse_args(arguments)
    table = Table("drill", "endings", "requests p50", "p90", "most", "CPU ms a drill", "CPU µs a request", box=None)
    is_sound = True
    for drill in Drill:
        begin_s = time.process_time()
        reports = [_run(drill, seed) for seed in range(asked.drills)]
        cpu_s = time.process_time() - begin_s
        endings = Counter(report.ending for report, _ in reports)
        is_sound = is_sound and endings[SOUND[drill]] >= SOUND_SHARE_MIN * asked.drills
        p50, p90, most = np.percentile([report.requests for report, _ in reports if report.ending is SOUND[drill]], [50, 90, 100])
        table.add_row(
            drill.value,
            ", ".join(f"{count} {ending.value}" for ending, count in endings.most_common()),
            *(f"{figure:,.0f}" for figure in (p50, p90, most)),
            f"{cpu_s / asked.drills * 1e3:.0f}",
            f"{cpu_s / sum(made for _, made in reports) * 1e6:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(f"in the monitor they take at most {MonitorSettings().drill_share:.1%} of the time")
    return int(not is_sound)


def _run(drill: Drill, seed: int) -> tuple[Report, int]:
    """Return a drill's report, and how many requests were made up for it."""
    running = Exercise(drill, seed=seed, begin_s=BEGIN_S, detector=AdwinDetector, settings=MonitorSettings())
    report, made = None, 0
    while report is None:
        report, made = running.go_on(1), made + 1
    return report, made


if __name__ == "__main__":
    raise SystemExit(main())
