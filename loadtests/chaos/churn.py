"""Loads, unloads, split changes and rollbacks under constant traffic, with the memory and open files of every process fitted.

A leak shows as a slope. The first quarter is left out: caches fill, allocators settle. What a process may grow by is the slope's
own error, plus what the allocator and the kernel's accounting of mapped pages move by.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from gateway.client import RequestFailed
from loadtests import model
from loadtests.chaos.callers import ROUTE, infer
from loadtests.chaos.world import Report, World, descriptors, resident_bytes, world
from loadtests.processes import planes

PAUSE_REQUESTS = 20.0  # between two rounds of changes, so that both grow with the rate
SPARE = "3"  # loaded and unloaded by request: no route ever needs it
SMALL = {"HEADGATE_MONITOR_TRUTH_WAIT_MAX": "1000"}  # what the monitor keeps for ground truth is full before the fit
SAMPLE_S = 1.0
SETTLING = 0.25  # of the time, before the fit
JUDGED_MINUTES_MIN = 15.0  # a worker keeps the newest 4,096 places it ran at, some 13 MiB; a quarter of this fills them
LEAK_BYTES_PER_H = 64 * 2**20  # twice what an hour of allocator noise shows; a leaked instance a minute is above it
FILES_GROWN_MAX = 5.0  # between the fit's ends


@dataclass(slots=True)
class Samples:
    """One process's memory and open files over time."""

    times_s: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


def churn(directory: Path, *, minutes: float = 30.0, rate: float = 100.0) -> Report:
    """Change everything that can be changed, again and again, and look whether anything is left behind.

    Args:
        rate: Requests a second.
    """
    report = Report(f"{minutes:g} minutes of churn at {rate:.0f} requests/s")
    requests = [infer(headers=f"Gateway-Assignment-Key: key-{key}\r\n") for key in range(500)]
    requests[::20] = [infer(version="2") for _ in range(25)]
    with world(directory, workers=2, has_reference=True, environment=SMALL) as gateway:
        gateway.admin.register(ROUTE, model.write_model(directory / "9.onnx", seed=9), metadata=model.metadata())
        samples: dict[str, Samples] = {}
        is_over = threading.Event()
        sampling = threading.Thread(target=_sample, args=(gateway, samples, is_over))
        with gateway.traffic(rate=rate, requests=requests) as traffic:
            sampling.start()
            done = _change_until(gateway, time.monotonic() + minutes * 60, pause_s=PAUSE_REQUESTS / rate)
            is_over.set()
            sampling.join()
        report.facts.append(", ".join(f"{count:,} {what}" for what, count in done.items()))
        report.note_seen(traffic.seen)
        report.claim(set(traffic.seen.statuses()) == {200} and not traffic.seen.losses, "a caller saw something")
        report.claim(not done.get("refused changes"), "a change was refused")
        deaths = gateway.deaths()
        report.claim(not deaths, f"processes ended, by exit code: {dict(deaths)}")
        report.check_log(gateway.data_dir, traffic.seen)
        for name, taken in sorted(samples.items()):
            _judge(report, name, taken, is_long=minutes >= JUDGED_MINUTES_MIN)
    return report


def _change_until(gateway: World, end_s: float, *, pause_s: float) -> dict[str, int]:
    """Go round: load, unload, three splits, a rollout and its rollback; return how many of each."""
    done: dict[str, int] = {"loads": 0, "unloads": 0, "split changes": 0, "rollbacks": 0, "refused changes": 0}
    headers = {"Authorization": f"Bearer {gateway.house.token}"}
    with httpx.Client(base_url=f"{gateway.house.url}/v2/repository/models/{ROUTE}", headers=headers, timeout=60) as repository:
        for turn in itertools.count():
            if time.monotonic() >= end_s:
                return done
            try:
                for what, path in (("loads", "/load"), ("unloads", "/unload")):
                    repository.post(path, json={"parameters": {"version": SPARE}}).raise_for_status()
                    done[what] += 1
                for weight in (1_000, 5_000, 0):
                    gateway.split(weight)
                    done["split changes"] += 1
                plan = {"steps": [1_000 + turn % 7 * 1_000], "advances_itself": False, "rollouts_per_year": 100_000}
                rollout = gateway.admin.start_rollout(ROUTE, "2", plan=plan, reason="churn")
                gateway.admin.move_rollout(ROUTE, str(rollout["id"]), "rollback", reason="churn")
                done["rollbacks"] += 1
            except (RequestFailed, httpx.HTTPError) as failure:
                done["refused changes"] += 1
                done[str(failure)] = done.get(str(failure), 0) + 1
            time.sleep(pause_s)
    raise AssertionError


def _sample(gateway: World, samples: dict[str, Samples], is_over: threading.Event) -> None:
    supervisor = gateway.house.process.pid
    while not is_over.wait(SAMPLE_S):
        for name, pid in {"supervisor": supervisor, **planes(supervisor)}.items():
            taken = samples.setdefault(f"{name} ({pid})", Samples())
            taken.times_s.append(time.monotonic())
            taken.bytes.append(resident_bytes(pid))
            taken.files.append(descriptors(pid))


def _judge(report: Report, name: str, taken: Samples, *, is_long: bool) -> None:
    """Claim that open files are flat, and memory too where the run is long enough to tell."""
    first = int(len(taken.times_s) * SETTLING)
    times_s = np.array(taken.times_s[first:])
    if len(times_s) < 10:
        report.claim(False, f"{name} lived for {len(taken.times_s)} samples only")
        return
    slope, error = _slope(times_s, np.array(taken.bytes[first:], np.float64))
    files = np.array(taken.files[first:], np.float64)
    files_grown = _slope(times_s, files)[0] * (times_s[-1] - times_s[0])
    report.facts.append(
        f"{name}: {taken.bytes[0] / 2**20:.0f} → {taken.bytes[-1] / 2**20:.0f} MiB, slope after settling"
        f" {slope * 3600 / 2**20:+.1f} ± {error * 3600 / 2**20:.1f} MiB/h; files {int(files[0])} → {int(files[-1])},"
        f" at most {int(files.max())}"
    )
    report.claim(not is_long or (slope - 2 * error) * 3600 < LEAK_BYTES_PER_H, f"{name}'s memory grows")
    report.claim(files_grown < FILES_GROWN_MAX, f"{name}'s open files grow")


def _slope(times_s: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return a straight line's slope by least squares, and its standard error from the means of ten parts.

    Neighbouring samples depend on each other, so that an error from single samples would be far too small.
    """
    slope = float(np.polyfit(times_s, values, 1)[0])
    parts = [
        (float(t.mean()), float(v.mean())) for t, v in zip(np.array_split(times_s, 10), np.array_split(values, 10), strict=True)
    ]
    at, means = np.array(parts).T
    residuals = means - np.polyval(np.polyfit(at, means, 1), at)
    error = float(np.sqrt(residuals @ residuals / 8 / ((at - at.mean()) @ (at - at.mean()))))
    return slope, error
