"""The README's five minutes by hand, as they stand there, against a real gateway."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT_S = 300  # some forty commands, each of which starts a Python; twenty seconds where nothing else runs
README = (ROOT / "README.md").read_text()
BY_HAND = README.partition("## Five minutes by hand")[2].partition("\n## ")[0]
SCRIPT = "\n".join(re.findall(r"^```sh\n(.*?)^```$", BY_HAND, re.MULTILINE | re.DOTALL))


@pytest.fixture
def directory(tmp_path) -> Path:
    """Make a place that looks like the repository's root to the README, and stays clean of the repository."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


@pytest.mark.timeout(SCRIPT_S + 60)
def test_readme_works_as_pasted(directory):
    """Every shell block runs without an error, and what the text promises has happened."""
    port, admin_port = _free_ports()
    script = SCRIPT.replace("8080", str(port)).replace("8081", str(admin_port))
    environment = {**os.environ, "HEADGATE_SERVING_PORT": str(port), "HEADGATE_CONTROL_PORT": str(admin_port)}
    output = _run(script, directory, environment)
    journal = (directory / "headgate.log").read_text()

    assert "champion=1 90 %, challenger=2 10 %" in output
    assert "copy=3 50 % copied" in output
    assert re.search(r"ground_truth +.*late", output)
    assert "each follows from the one before" in output
    assert "champion=2 100 %" in output.partition("each follows from the one before")[2]
    assert (directory / "delays.parquet").read_bytes().startswith(b"PAR1")
    assert [json.loads(line) for line in journal.splitlines()][-1]["action"] == "stop"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/v2/health/live")


def test_readme_names_pages_that_exist():
    """Every relative link of the README and of docs/ leads somewhere."""
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def _run(script: str, directory: Path, environment: dict[str, str]) -> str:
    """Run a script in a process group of its own, which is gone afterwards whatever happened; return what it printed."""
    printed = directory / "printed"
    with printed.open("w") as out:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=directory,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = shell.wait(SCRIPT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
    output, journal = printed.read_text(), directory / "headgate.log"
    assert code == 0, output + (journal.read_text() if journal.exists() else "")
    return output


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
