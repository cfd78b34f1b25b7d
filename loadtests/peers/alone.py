"""What a model does without a server: one call after the other with as many rows each, for some seconds; rows as a JSON line.

`python -m loadtests.peers.alone MODEL ROWS SECONDS`. Nobody who serves the model one call at a time on one core is faster.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np

from loadtests import load
from loadtests.peers.subjects import Subject
from loadtests.servers.session import session

WARM_RUNS = 5


def main(artifact: Path, rows: int, seconds: float) -> None:
    """Call, and print how many calls there were and each one's median duration."""
    call = _call(artifact, rows)
    for _ in range(WARM_RUNS):
        call()
    durations_s: list[float] = []
    start_s = now_s = time.perf_counter()
    while now_s < start_s + seconds:
        call()
        before_s, now_s = now_s, time.perf_counter()
        durations_s.append(now_s - before_s)
    p50_s, p99_s = np.percentile(durations_s, [50, 99])
    found = {"rows": rows * len(durations_s), "seconds": now_s - start_s, "p50_us": p50_s * 1e6, "p99_us": p99_s * 1e6}
    print(json.dumps(found))


def _call(artifact: Path, rows: int) -> Callable[[], object]:
    features = load.features(rows)
    if artifact.suffix == ".onnx":
        running, inputs = session(artifact), {"features": features.astype(np.float32)}
        return lambda: running.run(["probability"], inputs)
    fitted = joblib.load(artifact)
    predict = getattr(fitted, Subject(artifact.name).method)
    return lambda: predict(features)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
