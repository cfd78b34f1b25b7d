"""A pickled model whose process dies or hangs on marked rows, beside good rows of the same model and callers of another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import cloudpickle
import numpy as np

from gateway.demo.wire import post
from loadtests.chaos.callers import FEATURES, Traffic
from loadtests.chaos.deaths import STEADY_S, ask_once
from loadtests.chaos.harmed import SEGFAULT, STICK
from loadtests.chaos.surroundings import RESERVE_BYTES, fill, small_disk
from loadtests.chaos.world import Report, World, is_good, until, world
from loadtests.processes import children

MODEL = "frail"
RATE = 100.0  # good rows a second of the same model; one process answers thousands
HANG_S = 2.0  # pickled.predict_timeout_s as it is by default
PLENTY_INODES = 100_000
TIMES = 3  # deaths by different rows: the same one would be refused after the second


class Frail:
    """Adds a row's numbers, or reads address 0, or never returns."""

    n_features_in_ = FEATURES
    marks = (SEGFAULT, STICK)  # its own copy, because the pickle imports nothing of ours

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Do what the first number says."""
        import ctypes
        import threading

        segfault, stick = self.marks
        if (rows[:, 0] == segfault).any():
            ctypes.string_at(0)
        if (rows[:, 0] == stick).any():
            threading.Event().wait()
        return np.asarray(rows.sum(axis=1))


def instance_dies_and_hangs(directory: Path) -> Report:
    """A real segmentation fault in a pickled model's process, and one that never answers; three of each."""
    report = Report("a pickled model's process segfaults, then hangs")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    artifact = directory / "frail.pkl"
    artifact.write_bytes(cloudpickle.dumps(Frail()))
    with world(directory, environment={"HEADGATE_PICKLED_PREDICT_TIMEOUT_S": str(HANG_S)}) as gateway:
        gateway.admin.register(MODEL, artifact, metadata={"runtime": "pickled"})
        with gateway.traffic() as others, gateway.traffic(rate=RATE, requests=[_row(1.0)]) as beside:
            time.sleep(STEADY_S)
            for mark, what in ((SEGFAULT, "segfault"), (STICK, "hang")):
                for turn in range(TIMES):
                    report.facts.append(f"{what} {turn + 1}: " + _harmed(report, gateway, beside, _row(mark, seed=turn)))
        after = Counter(status for _, _, status in beside.seen.answers)
        report.facts.append(f"good rows of the same model: {dict(sorted(after.items()))}, {len(beside.seen.losses)} broken")
        report.claim(not beside.seen.losses, "a connection broke")
        report.claim(after.keys() <= {200, 500, 503, 504}, "good rows saw something undocumented")
        report.note_seen(others.seen)
        report.claim(set(others.seen.statuses()) == {200} and not others.seen.losses, "callers of another model saw something")
        report.claim(not gateway.deaths(), "a process of the gateway ended")
        for traffic in (others, beside):
            report.check_log(gateway.data_dir, traffic.seen)
    return report


def instance_dies_on_full_disk(directory: Path) -> Report:
    """A pickled model's process, its fork server and then the worker are killed while there is no byte and no inode left."""
    report = Report("a pickled model's processes are killed on a full disk")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    artifact = directory / "frail.pkl"
    artifact.write_bytes(cloudpickle.dumps(Frail()))
    with small_disk(directory) as is_mounted:
        if not is_mounted:
            report.facts.append("not run: mounting a small file system needs root")
            return report
        with world(directory, environment={"HEADGATE_LOG_FREE_BYTES_MIN": str(RESERVE_BYTES)}) as gateway:
            gateway.admin.register(MODEL, artifact, metadata={"runtime": "pickled"})
            with gateway.traffic() as others, gateway.traffic(rate=RATE, requests=[_row(1.0)]) as beside:
                time.sleep(STEADY_S)
                balloon = gateway.data_dir / "balloon"
                fill(balloon)
                _bound_inodes(gateway.data_dir, used_only=True)
                until(lambda: not is_good(gateway.house.url + "/v2/health/ready"))
                worker = gateway.pid("w0")
                for pid in (*_grandchildren(worker), *children(worker)):
                    os.kill(pid, signal.SIGKILL)
                    time.sleep(STEADY_S)
                report.claim(gateway.pid("w0") == worker, "the worker died with them")
                pid, _ = gateway.kill("w0")
                gateway.until_succeeded("w0", pid)
                until(lambda: is_good(gateway.house.url + "/v2/health/live"), within_s=60)
                time.sleep(STEADY_S)
                over_s = time.monotonic()
                balloon.unlink()
                _bound_inodes(gateway.data_dir, used_only=False)
                for traffic, what in ((others, "another model"), (beside, "the pickled model")):
                    good = until(partial(traffic.seen.good_since, over_s), within_s=90)
                    assert isinstance(good, list)
                    report.facts.append(f"{what}: first good answer {good[0] - over_s:.1f} s after there was room")
            for traffic in (others, beside):
                report.note_seen(traffic.seen)
                report.claim(traffic.seen.statuses().keys() <= {200, 503}, "callers saw something undocumented")
                report.check_log(gateway.data_dir, traffic.seen)
    return report


def _bound_inodes(place: Path, *, used_only: bool) -> None:
    """Leave a mounted file system no inode beyond those in use, or plenty again."""
    status = os.statvfs(place)
    count = status.f_files - status.f_ffree if used_only else PLENTY_INODES
    subprocess.run(["mount", "-o", f"remount,nr_inodes={count}", str(place)], check=True)


def _grandchildren(pid: int) -> list[int]:
    return [grandchild for child in children(pid) for grandchild in children(child)]


def _harmed(report: Report, gateway: World, beside: Traffic, row: bytes) -> str:
    """Send a marked row; return what its caller saw, and how much later the model answered good rows again."""
    harm_s = time.monotonic()
    saw = ask_once(gateway, row)
    told_s = time.monotonic()
    report.claim(saw.startswith(("500", "504")), f"the row's own caller saw {saw}")
    good = until(lambda: beside.seen.good_since(told_s), within_s=60, every_s=0.01)
    assert isinstance(good, list)
    time.sleep(STEADY_S)
    return f"its caller after {told_s - harm_s:.2f} s: {saw[:80]}; good answers again {good[0] - told_s:.2f} s later"


def _row(first: float, *, seed: int = 0) -> bytes:
    row = [first, *np.random.default_rng(seed).normal(size=FEATURES - 1).round(6).tolist()]
    tensor = {"name": "input", "shape": [1, FEATURES], "datatype": "FP64", "data": row}
    body = json.dumps({"inputs": [tensor]}).encode()
    return post(f"/v2/models/{MODEL}/infer", body, host="h")
