"""An open loop: requests are due at a fixed rate whatever the answers do, and latency counts from when each was due.

One thread turns over epoll and plain sockets with bytes that are ready to send. It sleeps between turns, so that what else has to
run on its core can, and says how late it was itself: a latency is the server's only while that is small beside it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from loadtests import load
from loadtests.processes import OTHER_CORE

CONNECTIONS = 128  # at 10,000 requests/s one is idle until answers take 13 ms
ANSWER_BYTES_MAX = 65_536  # a hundred times an answer
ANSWER_TIMEOUT_S = 15.0  # three times a route's default deadline
WAKE_S = 20e-6  # before a request is due the thread stops sleeping, since waking takes about that
TIMER_SLACK = Path("/proc/self/timerslack_ns")  # how late the kernel may wake a thread: 50 µs unless told otherwise
OK, HEAD_END, LENGTH = b"HTTP/1.1 200", b"\r\n\r\n", b"ontent-length: "


@dataclass(frozen=True, slots=True)
class Paced:
    """What one run at a fixed rate gave.

    Attributes:
        sent_per_s: The rate at which requests were really sent.
        p50_us, p99_us: From when a request was due until its answer was read.
        late_p50_us, late_p99_us: The generator's own lateness, from when a request was due and a connection idle until it was
            sent. Requests fall due at moments that have nothing to do with the answers', so answers are read as late as that.
    """

    sent_per_s: float
    p50_us: float
    p99_us: float
    late_p50_us: float
    late_p99_us: float
    errors: int


def opened(
    url: str,
    *,
    route: str,
    requests_per_s: float,
    seconds: float,
    inputs: load.Inputs = load.Inputs.WIDE,
    connections: int = CONNECTIONS,
) -> Paced:
    """Load a server at a fixed rate over connections that have each had an answer before the first request is due.

    Raises:
        ConnectionError: the server closed a connection, or its first answer was no prediction.
        TimeoutError: an answer was missing `ANSWER_TIMEOUT_S` after the last request was due.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    requests = load.requests(route, inputs, host=host)
    with contextlib.ExitStack() as until_sent:
        sockets = [until_sent.enter_context(_connected(host, int(port), requests[0])) for _ in range(connections)]
        until_sent.enter_context(_undisturbed())
        return _Run(sockets, requests, requests_per_s, int(requests_per_s * seconds)).paced()


class _Run:
    """One run: which request each connection carries, and what was noted of every request, in seconds."""

    def __init__(self, sockets: Sequence[socket.socket], requests: Sequence[bytes], rate: float, count: int) -> None:
        self._requests, self._rate, self._count = requests, rate, count
        self._sockets = {connection.fileno(): connection for connection in sockets}
        self._carried = dict.fromkeys(self._sockets, 0)  # the request that each sent last
        self._received = dict.fromkeys(self._sockets, b"")  # of an answer that came in parts
        self._errors = 0
        self._idle_s, self._sent_s, self._answered_s = np.zeros((3, count))  # since when the connection was idle, and so on

    def paced(self) -> Paced:
        """Send and read until every request has its answer."""
        start_s = self._turned()
        due_s = start_s + np.arange(self._count) / self._rate
        late_s = self._sent_s - np.maximum(due_s, self._idle_s)
        return Paced(
            float((self._count - 1) / (self._sent_s[-1] - start_s)),
            *(float(us) for us in np.percentile(self._answered_s - due_s, [50, 99]) * 1e6),
            *(float(us) for us in np.percentile(late_s, [50, 99]) * 1e6),
            errors=self._errors,
        )

    def _turned(self) -> float:
        """Turn until every request has its answer; return when the first was due."""
        clock, count, rate = time.perf_counter, self._count, self._rate
        sent = answered = 0
        with select.epoll() as poller:
            for file in self._sockets:
                poller.register(file, select.EPOLLIN)
            start_s = clock()
            give_up_s = start_s + count / rate + ANSWER_TIMEOUT_S
            # First in, first out: the connection that was idle for longest tells whether the request could have gone earlier.
            idle = deque((file, start_s) for file in self._sockets)
            while answered < count:
                wait_s = ANSWER_TIMEOUT_S
                if idle and sent < count:
                    wait_s = start_s + sent / rate - clock()
                    if wait_s <= 0:
                        # One a turn, so that answers do not lie unread while many requests are made up for.
                        self._send(sent, *idle.popleft())
                        sent += 1
                if wait_s > WAKE_S:
                    select.select([poller], [], [], wait_s - WAKE_S)  # its timeout is in microseconds; epoll's in milliseconds
                for file, _ in poller.poll(0):
                    if self._is_answered(file):
                        idle.append((file, self._noted(file)))
                        answered += 1
                if clock() > give_up_s:
                    raise TimeoutError(f"{count - answered} of {count} answers are missing")
        return start_s

    def _send(self, number: int, file: int, idle_s: float) -> None:
        self._idle_s[number], self._sent_s[number] = idle_s, time.perf_counter()
        self._carried[file] = number
        request = self._requests[number % load.KEYS]
        if self._sockets[file].send(request) != len(request):
            raise ConnectionError("an idle connection did not take a whole request")

    def _is_answered(self, file: int) -> bool:
        """Read what came on a connection; return whether the answer is whole."""
        data = self._sockets[file].recv(ANSWER_BYTES_MAX)
        if not data:
            raise ConnectionError("the server closed a connection that waited for its answer")
        if held := self._received[file]:
            data = held + data
        is_whole = _is_whole(data)
        self._received[file] = b"" if is_whole else data
        self._errors += is_whole and not data.startswith(OK)
        return is_whole

    def _noted(self, file: int) -> float:
        now_s = self._answered_s[self._carried[file]] = time.perf_counter()
        return now_s


def _is_whole(data: bytes) -> bool:
    """Return whether an answer with a content length is complete."""
    head_end = data.find(HEAD_END)
    if head_end < 0:
        return False
    at = data.index(LENGTH, 0, head_end) + len(LENGTH)
    return len(data) >= head_end + len(HEAD_END) + int(data[at : data.index(b"\r\n", at)])


def _connected(host: str, port: int, request: bytes) -> socket.socket:
    """Return a connection that has had one answer, which was checked."""
    connection = socket.create_connection((host, port), ANSWER_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(request)
    answer = b""
    while not _is_whole(answer):
        if not (data := connection.recv(ANSWER_BYTES_MAX)):
            raise ConnectionError(f"closed after {answer!r}")
        answer += data
    if not answer.startswith(OK) or "outputs" not in orjson.loads(answer.partition(HEAD_END)[2]):
        raise ConnectionError(f"not a prediction: {answer!r}")
    connection.setblocking(False)
    return connection


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep this process on its core, wake it on time, and leave its garbage where it is."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores & {OTHER_CORE} or cores)
    TIMER_SLACK.write_text("1000")
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        TIMER_SLACK.write_text("0")  # back to the default
        os.sched_setaffinity(0, cores)
