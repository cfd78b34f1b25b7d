"""One order to a process of its own: on its standard input, answered by one line on its standard output.

The process is started fresh, with no more environment than finding its code takes and what the caller names, and held to a
deadline and to a bound on its answer. It is killed, with all that it started in its own process group, before the caller goes on,
whatever became of it. What left that group is out of reach; it is not waited for, whatever it holds open.

The process is collected last of all: until then its number is nobody else's, so that what is killed by that number is ours.
"""

from __future__ import annotations

import contextlib
import enum
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Final

_CHUNK_BYTES: Final = 65_536  # what a pipe holds
_END_POLL_S: Final = 0.01  # of a process that has closed its output; its end is a matter of milliseconds


class Why(enum.Enum):
    """Why there is no answer."""

    NOT_STARTED = "not started"
    LATE = "late"
    TOO_LONG = "too long"
    ENDED = "ended"


class NoAnswer(Exception):
    """The process gave no whole line; `ending` says how it ended or why it did not begin, for people."""

    def __init__(self, why: Why, ending: str = "", *, signal: int = 0) -> None:
        super().__init__(why, ending)
        self.why = why
        self.ending = ending
        self.signal = signal


def answer_of(
    module: str, order: bytes, *, timeout_s: float, bytes_max: int, environment: Mapping[str, str] | None = None
) -> bytes:
    """Return what our module answers to an order.

    Args:
        environment: Variables that it gets beside those that every process here has.

    Raises:
        NoAnswer: it did not start, was late, answered more than the bound, or ended without an answer.
    """
    until_s = time.monotonic() + timeout_s
    path = os.pathsep.join(path for path in sys.path if path)
    try:
        child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", module],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**(environment or {}), "PYTHONPATH": path, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        raise NoAnswer(Why.NOT_STARTED, str(error)) from error
    try:
        answer = _exchanged(child, order, bytes_max=bytes_max, until_s=until_s)
        if len(answer) > bytes_max:
            raise NoAnswer(Why.TOO_LONG)
        if answer.endswith(b"\n"):
            return answer
        raise _ended(_status(child, until_s))
    finally:
        _kill(child)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _exchanged(child: subprocess.Popen[bytes], order: bytes, *, bytes_max: int, until_s: float) -> bytes:
    """Hand the order over and return what is answered, to its end, to the deadline or to the first bytes too many."""
    assert child.stdin is not None
    assert child.stdout is not None
    left, answer = memoryview(order), bytearray()
    os.set_blocking(child.stdin.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdin, selectors.EVENT_WRITE)
        ready.register(child.stdout, selectors.EVENT_READ)
        while len(answer) <= bytes_max and (left_s := until_s - time.monotonic()) > 0.0:
            for key, _ in ready.select(left_s):
                if key.fileobj is child.stdout:
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    if not chunk:
                        return bytes(answer)
                    answer += chunk
                elif not (left := left[_written(key.fd, left) :]):
                    ready.unregister(child.stdin)
                    child.stdin.close()
    return bytes(answer)


def _written(descriptor: int, content: memoryview) -> int:
    """Write what fits and return how much that was; all of it where nobody reads any more: how the process ended says why."""
    try:
        return os.write(descriptor, content)
    except BrokenPipeError:
        return len(content)


def _status(child: subprocess.Popen[bytes], until_s: float) -> int:
    """Wait for the end of a child and return its status, or its signal as a negative number; it stays to be collected.

    Raises:
        NoAnswer: it has not ended by the deadline.
    """
    while time.monotonic() < until_s:
        if ended := os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        time.sleep(_END_POLL_S)
    raise NoAnswer(Why.LATE)


def _ended(status: int) -> NoAnswer:
    if status >= 0:
        return NoAnswer(Why.ENDED, f"status {status}")
    return NoAnswer(Why.ENDED, signal.Signals(-status).name, signal=-status)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a child's process group, which outlives the child where that left something behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
