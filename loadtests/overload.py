"""An expensive model at three times its capacity, open loop, and how soon all is well afterwards; and its batches against
ONNX Runtime alone.

`python -m loadtests.overload` starts one worker with a 100 MB model, measures its capacity with 128 callers, and sends then, on a
fixed schedule, half the capacity, three times the capacity, and half again. It returns 1 when goodput at three times the capacity
is under 90 % of it, or recovery takes 5 s.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from gateway.core.split import SLOTS
from gateway.demo.house import House, start_house
from loadtests import load, model
from loadtests.heavy import write_heavy
from loadtests.processes import planes, step_back

ROUTE = "heavy"
DEADLINE_MS = 1_000
CALLERS, MANY = 64, 128  # of the batching row, and of the capacity: as many as keep every batch full
CONNECTIONS = 1_500  # what waits within the deadline, and what is being refused; each holds one request
ROUNDS = 2
OVER, UNDER = 3.0, 0.5  # of the capacity
GOODPUT_MIN, RECOVERY_S_MAX = 0.9, 5.0
BIN_S = 0.25  # recovery is found to that
GIVE_UP_S = 10.0
OK, BUSY, RETRY = b"HTTP/1.1 200", b"HTTP/1.1 503", b"retry-after: "


@dataclass(frozen=True, slots=True)
class Phase:
    """What one rate gave; arrays by request, in s from the phase's begin.

    Attributes:
        status: 200, 503 or 0 for anything else.
        cpu_s: Of the worker's event loop.
    """

    due_s: np.ndarray
    answered_s: np.ndarray
    status: np.ndarray
    late_s: np.ndarray
    seconds: float
    cpu_s: float

    @property
    def goodput(self) -> float:
        """Predictions a second that were answered within the deadline, over the time in which requests fell due."""
        in_time = (self.status == 200) & (self.answered_s - self.due_s <= DEADLINE_MS / 1e3) & (self.answered_s <= self.seconds)
        return float(np.count_nonzero(in_time) / self.seconds)

    def count(self, status: int) -> int:
        """Return how many answers had a status."""
        return int(np.count_nonzero(self.status == status))

    def latency_ms(self, status: int) -> tuple[float, float]:
        """Return the median and the 99th percentile of answers with a status, from when each request was due."""
        taken_s = (self.answered_s - self.due_s)[self.status == status]
        p50, p99 = np.percentile(taken_s, [50, 99]) * 1e3 if len(taken_s) else (np.nan, np.nan)
        return float(p50), float(p99)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of overload")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as scratch:
        artifact = write_heavy(Path(scratch) / "heavy.onnx")
        house = _started(Path(scratch) / "data", artifact, workers=asked.workers)
        try:
            capacity, loop_us = _capacity(console, house, artifact)
            return _overloaded(console, house, capacity, loop_us, asked.seconds)
        finally:
            house.stop()


def _started(data_dir: Path, artifact: Path, *, workers: int) -> House:
    data_dir.mkdir()
    os.environ["HEADGATE_SERVING_CONNECTIONS_MAX"] = str(CONNECTIONS + 2 * MANY)  # those of the load before may not be closed yet
    os.environ["HEADGATE_SERVING_HEADER_TIMEOUT_S"] = "60"  # connections are made before they are used
    house = start_house(data_dir, workers=workers, has_own_session=False)
    with house.admin() as admin:
        admin.register(ROUTE, artifact, metadata=model.metadata())
        variants = [{"name": "champion", "version": "1", "weight": SLOTS}]
        admin.put_route(ROUTE, {"model": ROUTE, "variants": variants, "deadline_ms": DEADLINE_MS}, if_match=0)
    for name, pid in planes(house.process.pid).items():
        if name in ("monitor", "archive"):
            step_back(pid)
    return house


def _capacity(console: Console, house: House, artifact: Path) -> tuple[float, float]:
    """Print the batching row; return rows a second at full load, and the event loop's CPU µs for each."""
    table = Table(title=f"{CALLERS} callers, one row a request", title_justify="left")
    for column in ("round", "gateway rows/s", "p99 ms", "rows a run", "ONNX Runtime alone, as many rows a run", "ratio"):
        table.add_column(column, justify="right")
    load.closed(house.url, route=ROUTE, connections=CALLERS, seconds=2)
    ratios = []
    for number in range(ROUNDS):
        rows_before, runs_before = _rows_and_runs(house)
        burst = load.closed(house.url, route=ROUTE, connections=CALLERS, seconds=3)
        rows, runs = _rows_and_runs(house)
        rows_a_run = (rows - rows_before) / max(runs - runs_before, 1)
        alone = _alone(artifact, max(round(rows_a_run), 1))
        ratios.append(burst.requests_per_s / alone)
        cells = (burst.requests_per_s, burst.p99_us / 1e3, rows_a_run, alone)
        table.add_row(str(number + 1), *(f"{value:,.0f}" for value in cells), f"{ratios[-1]:.2f}")
    console.print(table)
    console.print(f"median of the ratios: {median(ratios):.2f}")
    cpu_before = _loop_cpu_s(house)
    full = load.closed(house.url, route=ROUTE, connections=MANY, seconds=6)
    answers = full.requests - full.errors
    return answers / full.seconds, (_loop_cpu_s(house) - cpu_before) / answers * 1e6


def _overloaded(console: Console, house: House, capacity: float, loop_us: float, seconds: float) -> int:
    host, _, port = house.url.removeprefix("http://").rpartition(":")
    requests = load.requests(ROUTE, host=host)
    sockets = [socket.create_connection((host, int(port)), 10) for _ in range(CONNECTIONS)]
    for connection in sockets:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
    gc.disable()
    phases = {}
    for name, rate, lasts_s in (("before", UNDER, 5.0), ("overload", OVER, seconds), ("after", UNDER, 6.0)):
        before_s = _loop_cpu_s(house)
        due_s, answered_s, status, late_s = _sent(sockets, requests, capacity * rate, int(capacity * rate * lasts_s))
        phases[name] = Phase(due_s, answered_s, status, late_s, lasts_s, _loop_cpu_s(house) - before_s)
    table = Table(
        title=f"Open loop; the capacity is {capacity:,.0f} rows/s, the deadline {DEADLINE_MS:,} ms", title_justify="left"
    )
    columns = ("phase", "due/s", "goodput/s", "p50 ms", "p99 ms", "refused", "p50 ms", "p99 ms", "other", "generator late p99 ms")
    for column in columns:
        table.add_column(column, justify="right")
    for name, phase in phases.items():
        (p50, p99), (busy_p50, busy_p99) = phase.latency_ms(200), phase.latency_ms(503)
        values = (len(phase.due_s) / phase.seconds, phase.goodput)
        refused, others = phase.count(503), phase.count(0)
        late = np.percentile(phase.late_s, 99) * 1e3
        texts = [f"{value:,.0f}" for value in (*values, p50, p99, refused, busy_p50, busy_p99, others)]
        table.add_row(name, *texts, f"{late:.1f}")
    console.print(table)
    over = phases["overload"]
    refused_us = (over.cpu_s * 1e6 - over.count(200) * loop_us) / max(over.count(503), 1)
    recovery_s = _recovery_s(phases["before"], phases["after"])
    console.print(f"goodput {over.goodput / capacity:.0%} of the capacity; recovered after {recovery_s:.2f} s")
    console.print(
        f"of the event loop's CPU a refusal takes {refused_us:.0f} µs, an answer {loop_us:.0f} µs; "
        f"refusals took {over.count(503) * refused_us / 1e6 / seconds:.0%} of a core"
    )
    return 0 if over.goodput >= GOODPUT_MIN * capacity and recovery_s < RECOVERY_S_MAX else 1


def _recovery_s(before: Phase, after: Phase) -> float:
    """Return when, after the rate fell, a second began with no refusal and a p99 at most twice that of before."""
    bound_ms = 2.0 * before.latency_ms(200)[1]
    bins = int(after.seconds / BIN_S)
    at = np.minimum((after.due_s / BIN_S).astype(int), bins - 1)
    is_well = []
    for number in range(bins):
        mine = at == number
        p99_ms = np.percentile((after.answered_s - after.due_s)[mine], 99) * 1e3
        is_well.append(bool((after.status[mine] == 200).all()) and p99_ms <= bound_ms)
    in_a_row = int(1.0 / BIN_S)
    found = (number for number in range(bins - in_a_row) if all(is_well[number : number + in_a_row]))
    return next(found, bins) * BIN_S


def _sent(
    sockets: Sequence[socket.socket], requests: Sequence[bytes], rate: float, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Send `count` requests on schedule; return when each was due and answered, its status, and how late it was sent.

    Raises:
        TimeoutError: an answer was missing long after the last request was due.
        ConnectionError: the server closed a connection.
    """
    due_s = np.arange(count) / rate
    answered_s, late_s, status = np.zeros(count), np.zeros(count), np.zeros(count, int)
    by_file = {connection.fileno(): connection for connection in sockets}
    carried: dict[int, int] = {}
    idle = deque(by_file)
    sent = answered = 0
    with select.epoll() as poller:
        for file in by_file:
            poller.register(file, select.EPOLLIN)
        start_s = time.perf_counter()
        while answered < count:
            now_s = time.perf_counter() - start_s
            while sent < count and idle and sent / rate <= now_s:
                file = idle.popleft()
                by_file[file].send(requests[sent % load.KEYS])
                carried[file] = sent
                late_s[sent] = now_s - sent / rate
                sent += 1
            if now_s > count / rate + GIVE_UP_S:
                raise TimeoutError(f"{count - answered} of {count} answers are missing")
            wait_s = max(sent / rate - now_s, 0.0) if sent < count and idle else 0.01
            for file, _ in poller.poll(wait_s):
                answer = by_file[file].recv(65_536)  # answers are small and come whole
                if not answer:
                    raise ConnectionError("the server closed a connection")
                number = carried[file]
                answered_s[number] = time.perf_counter() - start_s
                is_busy = answer.startswith(BUSY) and RETRY in answer
                status[number] = 200 if answer.startswith(OK) else 503 if is_busy else 0
                idle.append(file)
                answered += 1
    return due_s, answered_s, status, late_s


def _alone(artifact: Path, rows: int) -> float:
    """Return the rows a second that ONNX Runtime does by itself in one thread, `rows` a run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
    inputs = {"features": np.random.default_rng(3).normal(size=(rows, load.FEATURES)).astype(np.float32)}
    session.run(None, inputs)
    runs, began_s = 0, time.perf_counter()
    while (taken_s := time.perf_counter() - began_s) < 2.0:
        session.run(None, inputs)
        runs += 1
    return runs * rows / taken_s


def _rows_and_runs(house: House) -> tuple[float, float]:
    """Return the rows run so far, and the runs."""
    with house.admin() as admin:
        lines = admin.metrics().splitlines()
    found = {
        end: sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"gateway_batch_rows_{end}{{"))
        for end in ("sum", "count")
    }
    return found["sum"], found["count"]


def _loop_cpu_s(house: House) -> float:
    """Return the CPU time of the workers' event loops, which run in their main threads."""
    found = 0.0
    for name, pid in planes(house.process.pid).items():
        if name.startswith("w"):
            fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
            found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


if __name__ == "__main__":
    sys.exit(main())
