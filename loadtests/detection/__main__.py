"""The table of what the monitor finds: `python -m loadtests.detection [--rows 1,4,7] [--quick | --full]`.

Prints a row at a time, each with its target, the figure found, a dummy's figure beside it, the seeds and the seconds it took, and
exits with 1 when a target was missed. What lies between a record and a decision is the build's own; only traffic is made up.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from loadtests.detection.lines import Asked, Row, Size, Verdict
from loadtests.detection.rows import ROWS

WIDTHS = (40, 22, 46, 24)  # of what, target, found, dummy


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows; return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=_rows, default=list(ROWS.values()), metavar="1,4,7", help="these; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const=Size.QUICK, help="whether everything runs")
    size.add_argument("--full", dest="size", action="store_const", const=Size.FULL, help="as many runs as the targets name")
    parser.set_defaults(size=Size.USUAL)
    options = parser.parse_args(arguments)
    began_s = time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        found = {row.number: run(row, Asked(options.size, options.seed, pool)) for row in options.rows}
    print(f"\n{time.monotonic() - began_s:.0f} s in all.", *_sums(found))
    return int(Verdict.MISSED in found.values())


def run(row: Row, asked: Asked) -> Verdict:
    """Run one row, print its lines as they come, and return the worst verdict."""
    began_s = time.monotonic()
    print(f"\n{row.number}. {row.title}\n   Dummy: {row.dummy}.", flush=True)
    print(_joined("", "target", "found", "dummy"))
    verdicts = []
    for line in row.run(asked):
        is_told = line.verdict is Verdict.BESIDE or line.is_exact or asked.size is not Size.QUICK
        verdicts.append(line.verdict if is_told else Verdict.OPEN)
        print(_joined(line.what, line.target, line.found, line.dummy, verdicts[-1].value), flush=True)
    found = next((one for one in (Verdict.MISSED, Verdict.OPEN, Verdict.MET) if one in verdicts), Verdict.BESIDE)
    print(f"   Seeds from {asked.seed}; {time.monotonic() - began_s:.0f} s: {found.value}", flush=True)
    return found


def _joined(*cells: str) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)]
    return "   " + " ".join([*padded, *cells[len(WIDTHS) :]]).rstrip()


def _sums(found: dict[int, Verdict]) -> list[str]:
    """Return a sentence for each verdict that occurs."""
    said = {Verdict.MISSED: "MISSED", Verdict.OPEN: "Too few runs to tell", Verdict.MET: "Met"}
    rows = {one: [number for number, verdict in found.items() if verdict is one] for one in said}
    return [f"{said[one]}: {', '.join(map(str, numbers))}." for one, numbers in rows.items() if numbers]


def _rows(text: str) -> list[Row]:
    try:
        return [ROWS[int(number)] for number in text.split(",")]
    except (ValueError, KeyError) as error:
        raise argparse.ArgumentTypeError(f"rows are numbers from {min(ROWS)} to {max(ROWS)}, with commas: {text!r}") from error


if __name__ == "__main__":
    logging.getLogger("gateway").setLevel(logging.ERROR)  # what the monitor does to made-up routes is the table's to say
    sys.exit(main())
