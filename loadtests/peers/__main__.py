"""The gateway beside its peers, in one run on one machine, in turn: tables with ratios, and with what was asked of them.

`python -m loadtests.peers --only small-64 --peers starlette,mlserver`. Linux with two cores and wrk; see loadtests/README.md for
how to read it. A peer that cannot be installed or started is a line that says why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from loadtests.gateway import Measured, measured_gateway
from loadtests.peers import environments, starts
from loadtests.peers.bench import running_bench
from loadtests.peers.catalogue import PEERS, Peer
from loadtests.peers.rows import PREDICT, ROWS, RUNTIME, Row
from loadtests.peers.table import GATEWAY, lines, table
from loadtests.processes import step_back


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a request to the gateway failed."""
    asked = _parser().parse_args(arguments)
    only, console = (
        set(asked.only or (starts.NAME, *(row.name for row in ROWS))),
        Console(width=None if sys.stdout.isatty() else 130),
    )
    peers = _installed([peer for peer in PEERS if not asked.peers or peer.key in asked.peers], asked.cache)
    is_good = True
    if rows := [row for row in ROWS if row.name in only]:
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            (directory / "data").mkdir()
            with measured_gateway(directory / "data") as gateway:
                for plane in ("control", "monitor", "archive"):
                    step_back(gateway.planes[plane])  # behind the load generator, whose core they share
                is_good = _compared(console, gateway, rows, peers, directory, rounds=asked.rounds, seconds=asked.seconds)
    if starts.NAME in only:
        starts.print_starts(console, peers, rounds=asked.start_rounds)
    return 0 if is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m loadtests.peers")
    names = [starts.NAME, *(row.name for row in ROWS)]
    parser.add_argument("--only", choices=names, action="append", help="this row; may be repeated")
    parser.add_argument("--peers", type=_keys, help=f"some of {','.join(peer.key for peer in PEERS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--start-rounds", type=int, default=3, help="of the row that starts each server")
    parser.add_argument("--seconds", type=int, default=1, help="of each burst")
    parser.add_argument("--cache", type=Path, default=environments.DEFAULT_CACHE, help="where the peers' environments are")
    return parser


def _keys(text: str) -> frozenset[str]:
    keys = frozenset(text.split(","))
    if unknown := keys - {peer.key for peer in PEERS}:
        raise argparse.ArgumentTypeError(f"no peer is called {', '.join(sorted(unknown))}")
    return keys


def _installed(peers: Sequence[Peer], cache: Path) -> dict[Peer, Path | str]:
    """Return each peer's Python, or why it has none."""
    found: dict[Peer, Path | str] = {}
    for peer in peers:
        try:
            found[peer] = environments.interpreter(peer.pins, cache=cache) if peer.pins else Path(sys.executable)
        except environments.NotInstalled as reason:
            found[peer] = f"not installed: {reason}"
    return found


def _compared(
    console: Console,
    gateway: Measured,
    rows: Sequence[Row],
    peers: dict[Peer, Path | str],
    directory: Path,
    *,
    rounds: int,
    seconds: float,
) -> bool:
    """Measure the rows, those over one model together; return whether the gateway answered everything."""
    titles = {GATEWAY: "gateway", RUNTIME: "ONNX Runtime alone, same batches", PREDICT: "predict, called directly in a loop"}
    titles |= {peer.key: peer.title for peer in peers}
    failed = 0
    for subject in dict.fromkeys(row.subject for row in rows):
        here = [row for row in rows if row.subject is subject]
        with running_bench(gateway, subject, peers, here, directory) as bench:
            print(f"{subject.value}: measuring", file=sys.stderr, flush=True)
            found = bench.measured(here, rounds=rounds, seconds=seconds)
        for row in here:
            bursts = found[row.name]
            reasons = {titles[key]: reason for key, reason in bench.reasons.items() if not row.only or key in row.only}
            console.print(table(row, lines(row, titles, bursts), reasons, rounds=rounds))
            failed += sum(burst.errors for burst in bursts.get(GATEWAY, ()))
    return failed == 0


if __name__ == "__main__":
    raise SystemExit(main())
