"""A gateway as a child process on free loopback ports, as `headgate serve` starts it for anyone else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.client import AdminClient, NotReachable, PredictionClient
from gateway.core.access import ADMIN_KEY_NAME

WORKERS: Final = 2
PROGRAM: Final = (sys.executable, "-m", "gateway")
START_S: Final = 60.0  # four processes import their libraries on two cores; usually three seconds
STOP_S: Final = 60.0  # above the supervisor's own patience with its children
ENVIRONMENT: Final = {
    "HEADGATE_LOG_SEGMENT_AGE_S": "10",  # a demonstration is over before a segment of the usual age closes and is archived
}


class NotStarted(Exception):
    """The gateway did not come up; its journal says why."""


@dataclass(frozen=True, slots=True)
class House:
    """A running gateway.

    Attributes:
        url, admin_url: Without a path, without a final slash.
        token: The admin token of its data directory.
    """

    process: subprocess.Popen[bytes]
    data_dir: Path
    url: str
    admin_url: str
    token: str

    @property
    def address(self) -> tuple[str, int]:
        """The prediction port's host and port."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def admin(self) -> AdminClient:
        """Return a client of the admin API that may do everything."""
        return AdminClient(self.admin_url, self.token)

    def monitor_lag_s(self) -> float:
        """Return how far the monitor is behind the log, by its own metric; 0 while it has none."""
        with self.admin() as admin:
            lines = admin.metrics().splitlines()
        return max(
            (float(line.rpartition(" ")[2]) for line in lines if line.startswith("gateway_monitor_lag_seconds")), default=0.0
        )

    def stop(self) -> int:
        """Stop in order and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start_house(
    data_dir: Path,
    *,
    workers: int = WORKERS,
    has_own_session: bool = True,
    program: Sequence[str] = PROGRAM,
    environment: Mapping[str, str] | None = None,
) -> House:
    """Start a gateway on `data_dir` and return once it is ready; its journal goes to `gateway.log` in that directory.

    Args:
        has_own_session: Ctrl-C in the terminal does not reach it, so that its owner can stop it last.
        program: Takes `serve …` as `headgate` does.
        environment: Settings of this start.

    Raises:
        NotStarted: it ended or was not ready in time.
    """
    journal = data_dir / "gateway.log"
    command = [*program, "serve", "--data-dir", str(data_dir), "--host", "127.0.0.1"]
    command += ["--port", "0", "--admin-port", "0", "--workers", str(workers)]
    with journal.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            start_new_session=has_own_session,
        )
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if (house := _ready(process, data_dir)) is not None:
            return house
        time.sleep(0.1)
    process.terminate()  # its children end with it, in order
    process.wait(STOP_S)
    raise NotStarted(f"the gateway did not start; its journal is {journal}")


def _ready(process: subprocess.Popen[bytes], data_dir: Path) -> House | None:
    try:
        found = json.loads((data_dir / "run" / "addresses.json").read_text())
        token = (data_dir / ADMIN_KEY_NAME).read_text().strip()
    except (OSError, ValueError):
        return None
    house = House(process, data_dir, found["url"], found["admin_url"], token)
    try:
        with PredictionClient(house.url) as predictions, house.admin() as admin:
            return house if predictions.is_ready() and admin.is_ready() else None
    except NotReachable:
        return None
