"""The supervisor's watchdog: who stood still, and who was only never looked at."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gateway.settings import Settings
from gateway.supervisor import Child, awake_since, kill_if_hung

HANG_S = Settings().supervisor.hang_s


class Stopped:
    """A worker's loop that turned a while ago and never since."""

    def __init__(self, turned_s: float) -> None:
        self.turned_s = turned_s
        self.is_marked = False

    def last_turn_s(self) -> float:
        """Return when that was."""
        return self.turned_s

    def mark_hung(self) -> None:
        """Take that it is blamed."""
        self.is_marked = True


@pytest.fixture
def child() -> Iterator[Child]:
    """Return a worker that began long ago and did not turn for longer than it may."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        now_s = time.monotonic()
        watch = Stopped(now_s - 2 * HANG_S)
        yield Child("serving", (), worker="w0", watch=watch, process=process, started_s=now_s - 10 * HANG_S)
        process.kill()


@pytest.mark.parametrize(("awake_s", "is_killed"), [(3 * HANG_S, True), (HANG_S / 2, False)])
def test_worker_is_killed_only_for_what_the_supervisor_was_awake_to_see(child, awake_s, is_killed):
    """When all processes were frozen together, a worker has the whole time to turn again."""
    kill_if_hung(child, Settings(), awake_s=time.monotonic() - awake_s)
    assert (child.is_killed, child.watch.is_marked) == (is_killed, is_killed)


def test_supervisor_that_stood_still_counts_from_when_it_woke():
    """A gap between two looks begins the count anew, and looks in time do not."""
    assert awake_since(5.0, looked_s=100.0, now_s=100.3) == 5.0
    assert awake_since(5.0, looked_s=100.0, now_s=180.0) == 180.0
