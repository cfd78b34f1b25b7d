"""What a gateway stands on: the disk fills up, the registry is held by somebody else, the wall clock steps."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from adapters.logs.reading import SegmentReader
from gateway.client import RequestFailed
from gateway.core.records import Offset
from loadtests.chaos.callers import ROUTE
from loadtests.chaos.harmed import CLOCK, step_clock
from loadtests.chaos.world import Report, World, is_good, until, world

STEADY_S = 2.5
FULL_S = 3.0
KEPT = {"HEADGATE_ARCHIVE_KEEP_SEGMENTS_S": "1000000"}  # a clock that jumps ahead makes every segment old
ROOM_BYTES = 96 * 2**20  # of the small file system: artifacts, mapped files and a log
RESERVE_BYTES = 16 * 2**20  # `log.free_bytes_min` on it


def log_cannot_grow(directory: Path) -> Report:
    """No write to the log succeeds for a while: the worker's files may not grow beyond their present size."""
    report = Report("the log cannot be written")
    with world(directory) as gateway:
        worker = gateway.pid("w0")
        with _harmed(report, gateway):
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            until(lambda: not is_good(gateway.house.url + "/v2/health/ready"), within_s=FULL_S)
            time.sleep(FULL_S)
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        report.claim(gateway.pid("w0") == worker, "the worker died")
    return report


def disk_full(directory: Path) -> Report:
    """The file system of the whole data directory has no byte left, then has room again. Needs the right to mount."""
    report = Report("the data directory's file system is full")
    with small_disk(directory) as is_mounted:
        if not is_mounted:
            report.facts.append("not run: mounting a small file system needs root")
            return report
        with world(directory, environment={"HEADGATE_LOG_FREE_BYTES_MIN": str(RESERVE_BYTES)}) as gateway:
            balloon = gateway.data_dir / "balloon"
            with _harmed(report, gateway):
                fill(balloon)
                until(lambda: not is_good(gateway.house.url + "/v2/health/ready"), within_s=FULL_S)
                report.facts.append(f"a split change meanwhile: {_attempt(gateway)}")
                for name in ("control", "monitor", "archive", "w0"):
                    pid, _ = gateway.kill(name)
                    gateway.until_succeeded(name, pid)
                time.sleep(FULL_S)
                up = is_good(gateway.house.url + "/v2/health/live")
                report.facts.append(f"every process was killed meanwhile; the worker answers again while full: {up}")
                balloon.unlink()
            until(lambda: is_good(gateway.house.admin_url + "/health/ready"), within_s=30)
            report.facts.append(f"a split change afterwards: {_attempt(gateway)}")
            gateway.until_monitor_caught_up()
    return report


def registry_locked(directory: Path, *, hold_s: float = 10.0) -> Report:
    """Another process holds the registry's write lock; a worker dies meanwhile."""
    report = Report(f"registry locked for {hold_s:.0f} s by another process")
    with world(directory, workers=2) as gateway, gateway.traffic() as traffic:
        time.sleep(STEADY_S)
        other = sqlite3.connect(gateway.data_dir / "registry.db", isolation_level=None, timeout=10)
        other.execute("BEGIN IMMEDIATE")
        start_s = time.monotonic()
        told: list[str] = []
        changing = threading.Thread(target=lambda: told.append(_attempt(gateway)))
        changing.start()
        pid, harm_s = gateway.kill("w1")
        gateway.until_succeeded("w1", pid)
        time.sleep(max(0.0, start_s + hold_s - time.monotonic()))
        other.execute("ROLLBACK")
        other.close()
        changing.join()
        report.facts.append(f"a split change meanwhile: {told[0]}")
        report.facts.append(f"one afterwards: {_attempt(gateway)}")
        until(lambda: is_good(gateway.house.admin_url + "/health/ready"), within_s=30)
        report.note_recovery(traffic.seen, harm_s, "a worker killed meanwhile")
        traffic.stop()
        report.note_seen(traffic.seen)
        report.claim(set(traffic.seen.statuses()) == {200}, "an answer was not 200")
        report.check_log(gateway.data_dir, traffic.seen)
    return report


def clock_steps(directory: Path, steps_s: tuple[float, ...] = (3_600.0, -7_200.0, 0.0)) -> Report:
    """Wall time jumps for every process at once, and a worker and the monitor die on the other side of a jump."""
    report = Report("wall clock stepped by " + ", ".join(f"{step:+.0f} s" for step in steps_s))
    file = directory / "clock"
    step_clock(file, 0.0)
    with (
        world(directory, workers=2, is_harmed=True, environment={CLOCK: str(file), **KEPT}) as gateway,
        gateway.traffic() as traffic,
    ):
        for step_s in steps_s:
            time.sleep(STEADY_S)
            step_clock(file, step_s)
            time.sleep(1.0)
            report.facts.append(
                f"{step_s:+.0f} s: the monitor had passed the log after {gateway.until_monitor_caught_up():.1f} s"
            )
            for name in ("w0", "monitor"):
                pid, harm_s = gateway.kill(name)
                gateway.until_succeeded(name, pid)
            time.sleep(1.0)
            passed_s = gateway.until_monitor_caught_up()
            report.facts.append(f"{step_s:+.0f} s, after a death of a worker and the monitor: {passed_s:.1f} s")
            report.facts.append(f"{step_s:+.0f} s: a split change {_attempt(gateway)}")
        traffic.stop()
        report.note_recovery(traffic.seen, harm_s, "the last death")
        report.note_seen(traffic.seen)
        report.claim(set(traffic.seen.statuses()) == {200}, "an answer was not 200")
        report.check_log(gateway.data_dir, traffic.seen)
        _check_times(report, gateway)
    return report


@contextlib.contextmanager
def _harmed(report: Report, gateway: World) -> Iterator[None]:
    """Do harm under load, wait for good answers, and claim what holds for every full disk."""
    with gateway.traffic() as traffic:
        time.sleep(STEADY_S)
        yield
        over_s = time.monotonic()
        until(lambda: is_good(gateway.house.url + "/v2/health/ready"), within_s=30)
        report.facts.append(f"ready {time.monotonic() - over_s:.2f} s after there was room")
        time.sleep(STEADY_S)
    report.note_seen(traffic.seen)
    report.facts.append(f"first good answer {traffic.seen.first_good_s(over_s):.2f} s after there was room")
    report.claim(set(traffic.seen.statuses()) == {200, 503}, f"answers were {dict(traffic.seen.statuses())}")
    report.check_log(gateway.data_dir, traffic.seen)


def _attempt(gateway: World) -> str:
    """Change the split, and say what came of it and when."""
    start_s = time.monotonic()
    try:
        gateway.split(1_000 if len(gateway.admin.route(ROUTE)["variants"]) == 1 else 0)  # type: ignore[arg-type]
        said = "done"
    except RequestFailed as failure:
        said = f"{failure.status} {failure.message!r}"
    return f"{said} after {time.monotonic() - start_s:.1f} s"


def _check_times(report: Report, gateway: World) -> None:
    """Claim that record times never fall within a stream."""
    reader = SegmentReader(gateway.data_dir / "log")
    for stream in reader.streams():
        at, latest_s, falls = Offset(0), 0.0, 0
        while (page := reader.read(stream, at)).records:
            for _, record in page.records:
                falls += record.time_s < latest_s
                latest_s = max(latest_s, record.time_s)
            at = page.next
        report.claim(not falls, f"record times fall {falls} times in stream {stream}")


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[bool]:
    """Mount a small file system where the data directory will be; yield whether that was possible, which needs root."""
    place = directory / "data"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "chaos", str(place)]
    is_mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def fill(balloon: Path) -> None:
    """Take every byte that is left."""
    with balloon.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
    with balloon.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0")
