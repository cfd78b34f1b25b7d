"""What every `CheckpointStore` promises."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.memory import MemoryCheckpoints
from gateway.core.records import Offset


@pytest.fixture(params=["memory", "sqlite"])
def checkpoints(request, tmp_path):
    return MemoryCheckpoints() if request.param == "memory" else SqliteCheckpoints(tmp_path / "c.db")


def test_checkpoint_of_a_new_consumer_is_none(checkpoints):
    """A consumer that never saved starts from the beginning."""
    assert checkpoints.load("monitor") is None


def test_checkpoint_is_what_was_saved_last(checkpoints):
    """Cursor and state come back to the byte, each consumer's its own."""
    checkpoints.save("monitor", {"w0": Offset(7)}, b"first")
    checkpoints.save("other", {}, b"")
    checkpoints.save("monitor", {"w0": Offset(9), "w1": Offset(1 << 40)}, bytes(range(256)))
    assert checkpoints.load("monitor") == ({"w0": 9, "w1": 1 << 40}, bytes(range(256)))
    assert checkpoints.load("other") == ({}, b"")


def test_checkpoint_does_not_change_with_the_cursor_it_was_made_from(checkpoints):
    """What the consumer does to its cursor afterwards is not saved."""
    cursor = {"w0": Offset(1)}
    checkpoints.save("monitor", cursor, b"")
    cursor["w0"] = Offset(2)
    assert checkpoints.load("monitor") == ({"w0": 1}, b"")


def test_checkpoint_survives_a_kill_whole(tmp_path):
    """After a kill at any moment cursor and state belong together, and are not older than the last save that returned."""
    program = f"""
from pathlib import Path
from adapters.stores.checkpoints import SqliteCheckpoints
checkpoints = SqliteCheckpoints(Path({str(tmp_path / "c.db")!r}))
at = 0
while True:
    at += 1
    checkpoints.save("monitor", {{"w0": at}}, b"%d" % at * 5_000)
    print(at, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    for _ in range(30):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    told = int((process.stdout.read().split() or ["30"])[-1])
    process.wait()
    cursor, state = SqliteCheckpoints(tmp_path / "c.db").load("monitor")
    assert cursor["w0"] in (told, told + 1)
    assert state == b"%d" % cursor["w0"] * 5_000
