"""The demonstration as a user runs it, whole, on a shorter schedule."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

REPLAY_S = "60"
WITHIN_S = 240  # of which the replay has 60 s, its last step of patience 60 s, and training, start and summary the rest
CLAIMS = (
    "every request was answered",
    "every answer is in the log exactly once, and nothing else is",
    "an aircraft never changed variant between two route changes",
    "version 2 ran in the shadow without answering anyone",
    "version 2 became champion",
    "the monitor rolled version 3 back by itself",
    "its audit entry holds the evidence",
    "no answer of version 3 came later than 1 s after its rollback",
    "every outcome that was posted is in the log",
    "the audit log's chain is whole",
    "closed segments are in the archive as Parquet",
)


@pytest.fixture
def demonstration(tmp_path):
    """Return the exit code and the output of a whole run."""
    printed = tmp_path / "printed"
    command = [sys.executable, "-m", "gateway", "demo", "--data-dir", str(tmp_path / "data"), "--seconds", REPLAY_S]
    with printed.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        code = process.wait(WITHIN_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a run that ended in order left nobody
    return code, printed.read_text()


def test_demo_promotes_the_sound_version_and_rolls_the_faulty_one_back(demonstration):
    """`headgate demo` ends with 0, each of its claims held, and its table says what each version answered."""
    code, output = demonstration
    assert code == 0, output
    for claim in CLAIMS:
        assert f"✓ {claim}" in output, output
    assert "✗" not in output
    answered = dict(re.findall(r"^│ ([123]) +│ +([\d,]+) │", output, re.MULTILINE))
    assert sorted(answered) == ["1", "2", "3"]
    assert re.search(r"version 3: QUARANTINED", output)
