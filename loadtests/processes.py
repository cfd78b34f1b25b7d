"""Processes of a measurement: started, pinned to a core, their CPU time read from the kernel. Linux only."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SERVER_CORE, OTHER_CORE = 0, 1  # the server's workers alone on the first; load, control, monitor and archive on the second
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers predictions: the process whose CPU time counts, and where it listens."""

    pid: int
    url: str

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads so far, user and system."""
        return cpu_s(self.pid)


def cpu_s(pid: int) -> float:
    """Return a process's CPU time so far, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def pin(pid: int, core: int) -> None:
    """Keep every thread of a process on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def step_back(pid: int) -> None:
    """Let a process run only when nothing else on its core wants to, for good: going back would need a privilege."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def planes(supervisor: int) -> dict[str, int]:
    """Return the process id of each plane (`control`, `monitor`, `archive`) and each worker (`w0`, …) of a gateway."""
    found: dict[str, int] = {}
    for pid in children(supervisor):
        words: list[str] = []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "plane" in words:
            plane = words[words.index("plane") + 1]
            found[words[words.index("--worker") + 1] if "--worker" in words else plane] = pid
    return found


def pin_gateway(supervisor: int) -> dict[str, int]:
    """Pin a gateway's workers to the server's core and the rest to the other; return its planes."""
    found = planes(supervisor)
    pin(supervisor, OTHER_CORE)
    for name, pid in found.items():
        pin(pid, OTHER_CORE if name in ("control", "monitor", "archive") else SERVER_CORE)
    return found


@contextlib.contextmanager
def baseline(module: str, *arguments: str) -> Iterator[Server]:
    """Run `python -m loadtests.servers.<module>` on the server's core until the block ends."""
    command: Sequence[str] = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", f"loadtests.servers.{module}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"{module} did not start")
        yield Server(process.pid, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)
