"""Orders to a process of its own: what it answers, how it ends, and that nothing that it started goes on."""

from __future__ import annotations

import ast
import os
import signal
import time
from pathlib import Path

import pytest

from adapters.child import NoAnswer, Why, answer_of

LATE_S = 4.0  # longer than an interpreter takes to start on a loaded machine
LINGERS_S = 60  # how long what a child leaves behind would hold its standard output
PARENT = f"""
import pathlib, subprocess, sys
left = subprocess.Popen(["sleep", "{LINGERS_S}"])
pathlib.Path(__file__).with_name("left").write_text(str(left.pid))
"""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Ask a module with this source."""
    monkeypatch.syspath_prepend(tmp_path)

    def asked(source: str, order: bytes = b"order", *, timeout_s: float = 60.0, **more: dict[str, str]) -> bytes:
        (tmp_path / "asked.py").write_text(source)
        return answer_of("asked", order, timeout_s=timeout_s, bytes_max=100, **more)

    return asked


def is_running(pid: int) -> bool:
    """Return whether a process still runs; one that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("source", "why", "ending", "signal"),
    [
        ("raise SystemExit(3)", Why.ENDED, "status 3", 0),
        ("import os; os.kill(os.getpid(), 9)", Why.ENDED, "SIGKILL", 9),
        ("print('x' * 200)", Why.TOO_LONG, "", 0),
    ],
)
def test_child_without_an_answer_says_why(ask, source, why, ending, signal):
    """A status, a signal and an answer beyond the bound are told apart."""
    with pytest.raises(NoAnswer) as raised:
        ask(source)
    assert (raised.value.why, raised.value.ending, raised.value.signal) == (why, ending, signal)


@pytest.mark.parametrize(("ends", "answer"), [("", None), ("print('whole', flush=True)", b"whole\n")])
def test_child_that_ended_is_killed_with_what_it_left_behind(ask, tmp_path, until, ends, answer):
    """Where a child has ended and what it started still holds its output, the deadline stands and that is killed."""
    began_s = time.monotonic()
    if answer is None:
        with pytest.raises(NoAnswer) as raised:
            ask(PARENT + ends, timeout_s=LATE_S)
        assert raised.value.why is Why.LATE
    else:
        assert ask(PARENT + ends, timeout_s=LATE_S) == answer
    assert time.monotonic() - began_s < LINGERS_S / 2
    left = int((tmp_path / "left").read_text())
    until(lambda: not is_running(left))


def test_child_is_not_waited_for_beyond_its_deadline_whatever_holds_its_pipes(ask, tmp_path):
    """What left the child's group with both pipes keeps nobody, also with an order that no pipe holds whole."""
    left = PARENT.replace('"])', '"], start_new_session=True)')
    began_s = time.monotonic()
    try:
        with pytest.raises(NoAnswer) as raised:
            ask(left, b"x" * 2**20, timeout_s=LATE_S)
        assert raised.value.why is Why.LATE
        assert time.monotonic() - began_s < LINGERS_S / 2
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def test_child_gets_what_the_caller_names_of_the_environment_and_no_more(ask, monkeypatch):
    """A secret of this process is not its child's."""
    monkeypatch.setenv("SECRET", "s3cret")
    answer = ask("import os; print(sorted(os.environ))", environment={"HTTPS_PROXY": "x"})
    assert set(ast.literal_eval(answer.decode())) <= {"HTTPS_PROXY", "PYTHONPATH", "LC_ALL", "LC_CTYPE"}
    assert b"HTTPS_PROXY" in answer


def test_child_that_failed_leaves_nothing_behind(ask, tmp_path, until):
    """What a child started with an output of its own is killed as soon as the child has ended, and its status is told."""
    quiet = PARENT.replace('"])', '"], stdout=subprocess.DEVNULL)')
    with pytest.raises(NoAnswer, match="status 3"):
        ask(quiet + "raise SystemExit(3)")
    left = int((tmp_path / "left").read_text())
    until(lambda: not is_running(left))
