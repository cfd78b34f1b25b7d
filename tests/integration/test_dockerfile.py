"""What can be known of the image without a container engine: its sources, its install line, its command and its health check."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One instruction with its continuation lines joined."""

    name: str
    rest: str


def instructions() -> list[Instruction]:
    """Parse the Dockerfile."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Instruction(*line.split(maxsplit=1)) for line in lines]


def of(name: str) -> list[str]:
    """Return what follows each instruction of a name."""
    return [one.rest for one in instructions() if one.name == name]


def environment() -> dict[str, str]:
    """Return the image's variables but the search path."""
    pairs = [pair.partition("=") for line in of("ENV") for pair in line.split()]
    return {name: value for name, _, value in pairs if name != "PATH"}


def sources() -> list[str]:
    """Return the paths that are copied out of the checkout."""
    return [path for line in of("COPY") if not line.startswith("--from") for path in line.split()[:-1]]


def test_dockerfile_copies_only_what_exists():
    """Each copied path is in the checkout and passes .dockerignore."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources()
    for path in sources():
        assert (ROOT / path).exists(), path
        assert path in allowed, f"{path} is ignored"


def test_dockerfile_runs_as_a_user_without_rights():
    """The last user is not root, and it owns the data directory that the volume is made from."""
    assert of("USER")[-1] not in ("root", "0")
    assert of("VOLUME") == [environment()["HEADGATE_DATA_DIR"]]
    assert f"-o {of('USER')[-1]}" in next(line for line in of("RUN") if "install -d" in line)


def test_dockerfile_base_matches_the_supported_python():
    """The slim base has a Python that the package allows."""
    minor = int(re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text()).group(1))
    for base in (line.split()[0] for line in of("FROM")):
        found = re.fullmatch(r"python:3\.(\d+)-slim", base)
        assert found, base
        assert int(found.group(1)) >= minor


def _free_ports() -> dict[str, str]:
    return {"HEADGATE_SERVING_PORT": "0", "HEADGATE_CONTROL_PORT": "0"}


def _started(command: list[str], directory: Path) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start the image's command with its variables on free ports; return it with its addresses."""
    variables = environment() | {"HEADGATE_DATA_DIR": str(directory)} | _free_ports()
    process = subprocess.Popen(command, env={**os.environ, **variables}, cwd=directory)
    addresses, deadline_s = directory / "run" / "addresses.json", time.monotonic() + 60
    while time.monotonic() < deadline_s and process.poll() is None:
        if addresses.exists():
            return process, json.loads(addresses.read_text())
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the command did not start")


def _check_health(python: str, port: str, *, within_s: float) -> int:
    """Run the image's health check against a port until it passes or time is up; return its last exit code."""
    check = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert check[0] == "python"
    command = [python, *[word.replace(":8080/", f":{port}/") for word in check[1:]]]
    deadline_s = time.monotonic() + within_s
    while (code := subprocess.run(command, capture_output=True, check=False).returncode) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return code


def _serve_and_check(command: list[str], python: str, directory: Path) -> None:
    directory.mkdir()
    process, addresses = _started(command, directory)
    try:
        port = addresses["url"].rpartition(":")[2]
        assert _check_health(python, port, within_s=60) == 0
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert _check_health(python, port, within_s=0) != 0, "the health check passes although nothing listens"


def test_dockerfile_command_starts_and_is_healthy(tmp_path):
    """The command with the image's variables serves on every interface, and the health check tells life from death."""
    assert json.loads(of("ENTRYPOINT")[0]) == ["headgate"]
    command = [sys.executable, "-m", "gateway", *json.loads(of("CMD")[0])]
    _serve_and_check(command, sys.executable, tmp_path / "data")


@pytest.mark.services
@pytest.mark.timeout(600)
def test_dockerfile_install_line_works_in_a_fresh_environment(tmp_path):
    """What is copied suffices for the install line, and what it installs serves: nothing of the checkout is needed after it."""
    source, target = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    for path in sources():
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy2
        copy(ROOT / path, source / path)
    install = next(line for line in of("RUN") if "pip install" in line).replace("/opt/headgate", str(target))
    install = install.replace("python -m venv", f"{sys.executable} -m venv", 1)
    subprocess.run(["/bin/sh", "-ec", install], cwd=source, check=True)
    shutil.rmtree(source)
    _serve_and_check(
        [str(target / "bin" / "headgate"), *json.loads(of("CMD")[0])], str(target / "bin" / "python"), tmp_path / "data"
    )
