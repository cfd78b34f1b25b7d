"""What tests of several parts share: real ONNX files and a real gateway in its own processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

FEATURES = 20
settings.register_profile("headgate", deadline=None)  # a busy machine is no counterexample
settings.load_profile("headgate")


def wait_until(claim: Callable[[], object], *, within_s: float = 20.0, every_s: float = 0.02) -> object:
    """Return the first true value of `claim`, or fail when the deadline passes."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if value := claim():
            return value
        time.sleep(every_s)
    raise AssertionError(f"not within {within_s} s: {claim}")


def linear_model(path: Path, *, scale: float = 1.0, features: int = FEATURES, seed: int = 7) -> Path:
    """Write `probability = sigmoid(features · w · scale)`, shapes [n, features] → [n, 1], FP32."""
    weights = np.random.default_rng(seed).normal(size=(features, 1)).astype(np.float32) * np.float32(scale)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["probability"])],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def fragile_model(path: Path, *, offsets: Sequence[float] = (0.0,), seed: int = 7) -> Path:
    """Write a model with the linear model's signature that raises when the first feature is above 0.8.

    It looks up what it adds to the sum: there is a second offset only if it is given; with a NaN the answer is invalid instead.
    """
    weights = np.random.default_rng(seed).normal(size=(FEATURES, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["features", "zero", "one", "one"], ["first"]),
            helper.make_node("Greater", ["first", "bound"], ["is_above"]),
            helper.make_node("Cast", ["is_above"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["offsets", "index"], ["offset"], axis=0),
            helper.make_node("MatMul", ["features", "w"], ["product"]),
            helper.make_node("Add", ["product", "offset"], ["z"]),
            helper.make_node("Sigmoid", ["z"], ["probability"]),
        ],
        "fragile",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array(offsets, np.float32), "offsets"),
            numpy_helper.from_array(np.array([0.8], np.float32), "bound"),
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def scaling_model(path: Path, factor: float, *, features: int = FEATURES, kind: int = TensorProto.FLOAT) -> Path:
    """Write `features = raw · factor`, shapes [n, features] → [n, features]: preprocessing for the linear model."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["raw", "factor"], ["features"])],
        "scaling",
        [helper.make_tensor_value_info("raw", kind, ["n", features])],
        [helper.make_tensor_value_info("features", kind, ["n", features])],
        [numpy_helper.from_array(np.array(factor, dtype), "factor")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@dataclass
class Gateway:
    """A running gateway: its process group, its addresses and an admin client."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    url: str
    admin_url: str
    token: str
    admin: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        self.admin = httpx.Client(base_url=self.admin_url + "/api/v1", headers=headers, timeout=60)

    def register(self, model: str, artifact: Path, **metadata: object) -> dict[str, object]:
        """Register a version and return its body."""
        files = {
            "artifact": ("model.onnx", artifact.read_bytes(), "application/octet-stream"),
            "metadata": ("metadata", json.dumps(metadata), "application/json"),
        }
        answer = self.admin.post(f"/models/{model}/versions", files=files)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def put_route(self, name: str, body: dict[str, object]) -> dict[str, object]:
        """Create or replace a route at its present revision."""
        present = self.admin.get(f"/routes/{name}")
        revision = present.json()["revision"] if present.status_code == 200 else 0
        answer = self.admin.put(f"/routes/{name}", json=body, headers={"If-Match": str(revision)})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def children(self) -> dict[str, int]:
        """Return the process id of each plane (`control`, `monitor`, `archive`) and worker (`w0`, …)."""
        found: dict[str, int] = {}
        listed = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False).stdout
        for pid in map(int, listed.split()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "plane" in words:
                plane = words[words.index("plane") + 1]
                found[words[words.index("--worker") + 1] if "--worker" in words else plane] = pid
        return found

    def stop(self) -> int:
        """Stop in order and return the exit code."""
        self.admin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def launch(data_dir: Path, *options: str, environment: dict[str, str] | None = None) -> Gateway:
    """Start `headgate serve` on free ports and wait until it is ready."""
    command = [
        sys.executable,
        "-m",
        "gateway",
        "serve",
        "--data-dir",
        str(data_dir),
        "--port",
        "0",
        "--admin-port",
        "0",
        *options,
    ]
    addresses = data_dir / "run" / "addresses.json"
    addresses.unlink(missing_ok=True)
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})})

    def is_ready() -> dict[str, object] | None:
        assert process.poll() is None, "the gateway ended at its start"
        try:
            found = json.loads(addresses.read_text())
            for url in (found["url"] + "/v2/health/ready", found["admin_url"] + "/health/ready"):
                if httpx.get(url).status_code != 200:
                    return None
        except (OSError, ValueError, httpx.HTTPError):
            return None
        return found

    try:
        found = wait_until(is_ready, within_s=60)
    except BaseException:
        process.kill()
        raise
    assert isinstance(found, dict)
    return Gateway(process, data_dir, found["url"], found["admin_url"], (data_dir / "admin.token").read_text().strip())


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start gateways that are stopped after the test."""
    started: list[Gateway] = []

    def start(*options: str, data_dir: Path | None = None, environment: dict[str, str] | None = None) -> Gateway:
        started.append(launch(data_dir or tmp_path / "data", *options, environment=environment))
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture(scope="session")
def until() -> Callable[..., object]:
    """Return the wait on a condition with a deadline."""
    return wait_until


@pytest.fixture(scope="session")
def write_linear_model() -> Callable[..., Path]:
    """Return the writer of the small model that most tests use."""
    return linear_model


@pytest.fixture(scope="session")
def write_fragile_model() -> Callable[..., Path]:
    """Return the writer of a model that fails on some rows."""
    return fragile_model


@pytest.fixture(scope="session")
def write_scaling_model() -> Callable[..., Path]:
    """Return the writer of a model that prepares another one's inputs."""
    return scaling_model
