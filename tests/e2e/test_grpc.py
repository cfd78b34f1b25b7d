"""gRPC on a running gateway: several workers on one port, and a start that says what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from adapters.logs.reading import SegmentReader
from gateway.core.records import Offset, PredictionRecord

ROW = np.zeros((1, 20), np.float32)
WITHOUT = "import sys; sys.modules['grpc'] = None; from gateway.__main__ import main; main()"


def _client(address: str) -> tritonclient.grpc.InferenceServerClient:
    return tritonclient.grpc.InferenceServerClient(address, channel_args=[("grpc.use_local_subchannel_pool", 1)])


def test_workers_share_the_grpc_port_and_drain(start_gateway, write_linear_model, tmp_path):
    """Connections reach both workers; a stop under load breaks no call that was taken, and each has exactly one record."""
    gateway = start_gateway("--workers", "2", "--grpc-port", "0")
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"))
    address = json.loads((gateway.data_dir / "run" / "addresses.json").read_text())["grpc"]
    asked = tritonclient.grpc.InferInput("features", [1, 20], "FP32")
    asked.set_data_from_numpy(ROW)
    ids: list[str] = []
    refused: list[str] = []
    answered = threading.Event()

    def call() -> None:
        with _client(address) as client:
            while True:
                try:
                    answer = client.infer("delays", [asked], client_timeout=10)
                except InferenceServerException as error:
                    refused.append(str(error.status()))
                    return
                ids.append(answer.get_response().parameters["prediction_id"].string_param)
                if len(ids) > 200:
                    answered.set()

    callers = [threading.Thread(target=call) for _ in range(12)]
    for caller in callers:
        caller.start()
    assert answered.wait(30)
    assert gateway.stop() == 0
    for caller in callers:
        caller.join(30)
    assert set(refused) == {"StatusCode.UNAVAILABLE"}
    reader = SegmentReader(gateway.data_dir / "log")
    logged = {
        stream: [
            one.prediction_id for _, one in reader.read(stream, Offset(0), 100_000).records if isinstance(one, PredictionRecord)
        ]
        for stream in reader.streams()
    }
    assert all(logged[worker] for worker in ("w0", "w1"))
    assert sorted(ids) == sorted([*logged["w0"], *logged["w1"]])


def test_grpc_port_without_the_extra_or_in_use_stops_the_start(start_gateway, tmp_path):
    """A port that cannot be served is told at once, with what to do."""
    options = ["serve", "--data-dir", str(tmp_path / "other"), "--port", "0", "--admin-port", "0", "--grpc-port"]
    missing = subprocess.run(
        [sys.executable, "-c", WITHOUT, *options, "0"], capture_output=True, text=True, timeout=60, check=False
    )
    assert missing.returncode == 1
    assert "pip install 'headgate[grpc]'" in missing.stderr
    unreadable = subprocess.run(
        [sys.executable, "-m", "gateway", *options, "0"],
        env={**os.environ, "HEADGATE_SERVING_GRPC_CERTIFICATE": str(tmp_path / "none.pem")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert unreadable.returncode == 1
    assert "none.pem" in unreadable.stderr
    gateway = start_gateway("--grpc-port", "0")
    port = json.loads((gateway.data_dir / "run" / "addresses.json").read_text())["grpc"].rpartition(":")[2]
    taken = subprocess.run(
        [sys.executable, "-m", "gateway", *options, port], capture_output=True, text=True, timeout=60, check=False
    )
    assert taken.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in taken.stderr
