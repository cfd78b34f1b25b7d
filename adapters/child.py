"""One order to a process of its own: on its standard input, answered by one line on its standard output.

The process is started fresh, with no more environment than finding its code takes, and held to a deadline and to a bound on its
answer. It is killed, with all that it started in its own process group, before the caller goes on, whatever became of it.

It is collected last of all: until then its number is nobody else's, so that what is killed by that number is ours.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import subprocess
import sys
import threading


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


def answer_of(module: str, order: bytes, *, timeout_s: float, bytes_max: int) -> bytes:
    """Return what our module answers to an order.

    Raises:
        NoAnswer: it did not start, was late, answered more than the bound, or ended without an answer.
    """
    try:
        child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        raise NoAnswer(Why.NOT_STARTED, str(error)) from error
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        _kill(child)

    timer = threading.Timer(timeout_s, end)
    timer.start()
    try:
        return _read(child, order, bytes_max, is_late)
    finally:
        timer.cancel()
        timer.join()  # it may be killing right now
        _kill(child)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _read(child: subprocess.Popen[bytes], order: bytes, bytes_max: int, is_late: threading.Event) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it died first; its exit status says how
        child.stdin.write(order)
        child.stdin.close()
    answer = child.stdout.read(bytes_max + 1)
    if len(answer) > bytes_max:
        raise NoAnswer(Why.TOO_LONG)
    if answer.endswith(b"\n"):
        return answer
    status = _status(child)
    if is_late.is_set():
        raise NoAnswer(Why.LATE)
    raise _ended(status)


def _status(child: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a child and return its status, or its signal as a negative number; it stays to be collected."""
    ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None  # which it is only where one does not wait
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _ended(status: int) -> NoAnswer:
    if status >= 0:
        return NoAnswer(Why.ENDED, f"status {status}")
    return NoAnswer(Why.ENDED, signal.Signals(-status).name, signal=-status)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a child's process group, which outlives the child where that left something behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
