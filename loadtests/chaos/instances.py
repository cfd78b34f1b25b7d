"""A pickled model whose process dies or hangs on marked rows, beside good rows of the same model and callers of another."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import cloudpickle
import numpy as np

from gateway.demo.wire import post
from loadtests.chaos.callers import FEATURES, Traffic
from loadtests.chaos.deaths import STEADY_S, ask_once
from loadtests.chaos.harmed import SEGFAULT, STICK
from loadtests.chaos.world import Report, World, until, world

MODEL = "frail"
RATE = 100.0  # good rows a second of the same model; one process answers thousands
HANG_S = 2.0  # pickled.predict_timeout_s as it is by default
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
