"""A peer's server while it runs: started, asked until it answers rightly, held still while another is measured, stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.peers.asked import INFER, free_port
from loadtests.peers.catalogue import Peer
from loadtests.peers.subjects import Subject

REPOSITORY = Path(__file__).parents[2]
START_S = 90.0  # the slowest takes 30 s on one core that others use too
STOP_S = 20.0  # in order; what is left then is killed
_ASK_S = 0.01  # between two attempts at a first prediction
_CLOSE_TO = 1e-4  # of an answer to the expected one: single precision, through JSON


class NotRunning(Exception):
    """A server ended, or gave no right answer in time; the message says what it said last."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server and all its processes.

    Attributes:
        start_s: From its start to its first right answer.
    """

    peer: Peer
    subject: Subject
    root: int
    port: int
    journal: Path
    start_s: float

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    def last_line(self) -> str:
        """Return the last thing that it said."""
        return _last_line(self.journal)

    def hold(self) -> None:
        """Stop every process where it is, so that what it does beside answering costs nobody else."""
        if self.peer.is_held:
            _signalled(tree(self.root), signal.SIGSTOP)

    def go_on(self) -> None:
        """Let every process run again, children first: one that its parent finds stopped is taken for dead and replaced."""
        _signalled(reversed(tree(self.root)), signal.SIGCONT)


@contextlib.contextmanager
def running(
    peer: Peer, python: Path, subject: Subject, artifact: Path, *, expected: float, directory: Path, cores: Sequence[int]
) -> Iterator[Running]:
    """Run a peer on some cores, in a new directory, until the block ends.

    Args:
        expected: What the model says of the first row that is sent.

    Raises:
        NotRunning: it did not answer so.
    """
    home, port = directory / f"{peer.key}-{subject.name.lower()}", free_port()
    home.mkdir()
    command = [str(python), "-m", peer.module, str(artifact), str(port)]
    if peer.is_batching and subject.is_batched:
        command.append("--batched")
    journal = home / "journal"
    start_s = time.monotonic()
    with journal.open("wb") as file:
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), *command],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=_environment(python, home),
        )
    try:
        answered(process, port, INFER, peer.body(subject, 1), expected=expected, journal=journal)
        yield Running(peer, subject, process.pid, port, journal, time.monotonic() - start_s)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to end, and kill what is left of its processes after `STOP_S`."""
    members = tree(process.pid)
    _signalled(reversed(members), signal.SIGCONT)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    _signalled(members, signal.SIGKILL)
    process.wait()


def tree(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    found, at = [root], 0
    while at < len(found):
        for children in Path(f"/proc/{found[at]}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
        at += 1
    return found


def memory_bytes(root: int) -> int:
    """Return the memory of a process and all that descend from it; what several share counts in parts."""
    kilobytes = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1_024


def holds(value: object, expected: float) -> bool:
    """Return whether a number close to the expected one stands anywhere in an answer."""
    match value:
        case dict():
            return any(holds(member, expected) for member in value.values())
        case list():
            return any(holds(member, expected) for member in value)
        case float():
            return math.isclose(value, expected, rel_tol=_CLOSE_TO)
    return False


def _environment(python: Path, home: Path) -> dict[str, str]:
    """Return the environment of a peer: the endpoints and its own programs can be found; one thread for each library."""
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
    }


def answered(process: subprocess.Popen[bytes], port: int, path: str, body: bytes, *, expected: float, journal: Path) -> None:
    """Ask until the right answer comes.

    Raises:
        NotRunning: the process ended, or `START_S` passed.
    """
    deadline_s, last = time.monotonic() + START_S, "no answer"
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise NotRunning(f"ended with {process.returncode}: {_last_line(journal)}")
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            status, answer = _asked(port, path, body)
            if status == 200 and holds(json.loads(answer), expected):
                return
            last = f"{status} {answer[:200]!r}"
        time.sleep(_ASK_S)
    raise NotRunning(f"not the right answer within {START_S:.0f} s: {last}; {_last_line(journal)}")


def _asked(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()


def _last_line(journal: Path) -> str:
    lines = journal.read_text(errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")


def _signalled(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
