"""From a server's start to its first right answer; CPU time and memory of its processes by then. A small model, all cores."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from gateway.demo.house import start_house
from loadtests import load
from loadtests.peers.bench import register
from loadtests.peers.catalogue import Peer
from loadtests.peers.running import NotRunning, answered, memory_bytes, running, tree
from loadtests.peers.subjects import Subject, first_answer, write_subject
from loadtests.processes import OTHER_CORE, SERVER_CORE, cpu_s

NAME = "start"
WORKERS = 2  # of the gateway, beside its supervisor, control, monitor and archive


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a server.

    Attributes:
        cpu_s: What its processes have computed by then, on whichever core; others on the machine hardly change it.
    """

    seconds: float
    cpu_s: float
    memory_bytes: int
    processes: int


def print_starts(console: Console, peers: Mapping[Peer, Path | str], *, rounds: int) -> None:
    """Start each server by itself, in turn, and print the medians."""
    starts: dict[str, list[Start]] = {"gateway": []}
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        artifact = write_subject(Subject.SMALL, Path(scratch))
        expected = first_answer(Subject.SMALL, artifact)
        data = _registered(Path(scratch), artifact)
        for number in range(rounds):
            print(f"{NAME}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            starts["gateway"].append(_of_gateway(data, expected))
            for peer, python in peers.items():
                if peer.title in reasons:
                    continue
                try:
                    start = _of_peer(peer, python, artifact, expected, Path(scratch) / str(number))
                    starts.setdefault(peer.title, []).append(start)
                except NotRunning as reason:
                    reasons[peer.title] = str(reason)
    console.print(_table(starts, reasons, rounds))


def _registered(scratch: Path, artifact: Path) -> Path:
    """Return the data directory of a gateway that has been stopped again, with one model and its route."""
    data = scratch / "data"
    data.mkdir()
    house = start_house(data, workers=1)
    register(house, "small", Subject.SMALL, artifact)
    house.stop()
    return data


def _of_gateway(data: Path, expected: float) -> Start:
    start_s = time.monotonic()
    house = start_house(data, workers=WORKERS)
    try:
        journal = data / "gateway.log"
        path = load.INFER.format(route="small")
        answered(house.process, house.address[1], path, load.body(), expected=expected, journal=journal)
        return _start(time.monotonic() - start_s, house.process.pid)
    finally:
        house.stop()


def _of_peer(peer: Peer, python: Path | str, artifact: Path, expected: float, directory: Path) -> Start:
    if isinstance(python, str):
        raise NotRunning(python)
    directory.mkdir(exist_ok=True)
    cores = (SERVER_CORE, OTHER_CORE)
    with running(peer, python, Subject.SMALL, artifact, expected=expected, directory=directory, cores=cores) as server:
        return _start(server.start_s, server.root)


def _start(seconds: float, root: int) -> Start:
    pids = tree(root)
    return Start(seconds, sum(map(cpu_s, pids)), memory_bytes(root), len(pids))


def _table(starts: Mapping[str, list[Start]], reasons: Mapping[str, str], rounds: int) -> Table:
    printed = Table(title=f"{NAME}: small model, all cores, medians of {rounds} rounds", title_justify="left")
    for column in ("server", "start to first answer, s", "CPU until then, s", "memory (PSS), MB", "processes"):
        printed.add_column(column, justify="left" if column == "server" else "right")
    for title, found in starts.items():
        seconds, cpu, memory = (
            median(getattr(start, field) for start in found) for field in ("seconds", "cpu_s", "memory_bytes")
        )
        printed.add_row(title, f"{seconds:.1f}", f"{cpu:.1f}", f"{memory / 2**20:,.0f}", str(found[-1].processes))
    for title in reasons:
        printed.add_row(title, "not measured")
    printed.caption = "\n".join(f"{title}: {reason}" for title, reason in reasons.items()) or None
    return printed
