"""The supervisor: one gateway per directory and port, what dies comes back, what hangs is killed, all stop together."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from adapters.logs.reading import SegmentReader
from gateway.compose.directory import DataDirectory
from gateway.core.records import Offset, Outcome, PredictionRecord


def _serve(*options: str, file_bytes_max: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "serve", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, resource.RLIM_INFINITY)),
    )


def test_second_gateway_is_refused(start_gateway, tmp_path):
    """A data directory or a port in use stops the start with a message that names it."""
    gateway = start_gateway()
    same_directory = _serve("--data-dir", str(gateway.data_dir), "--port", "0", "--admin-port", "0")
    assert same_directory.returncode == 1
    assert "another gateway runs on" in same_directory.stderr
    port = gateway.url.rpartition(":")[2]
    same_port = _serve("--data-dir", str(tmp_path / "other"), "--port", port, "--admin-port", "0")
    assert same_port.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in same_port.stderr


def test_start_without_room_says_so(tmp_path):
    """What cannot be written, the registry or what the processes read, stops the start in one line that says what to do."""
    options = ("--port", "0", "--admin-port", "0")
    no_room = _serve("--data-dir", str(tmp_path / "full"), *options, file_bytes_max=4_096)
    (tmp_path / "data" / "run" / "settings.new").mkdir(parents=True)
    no_settings = _serve("--data-dir", str(tmp_path / "data"), *options)
    for failed in (no_room, no_settings):
        told = failed.stderr.splitlines()[-1]
        assert failed.returncode == 1
        assert "the gateway cannot start" in told
        assert "make room on the file system" in told
        assert "Traceback" not in failed.stderr


def test_every_process_comes_back(start_gateway, until):
    """Each plane that is killed is started again, and the gateway is ready again."""
    gateway = start_gateway()
    before = until(lambda: gateway.children() if len(gateway.children()) == 4 else None)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    after = until(
        lambda: found if len(found := gateway.children()) == 4 and not set(found.values()) & set(before.values()) else None
    )
    assert set(after) == set(before) == {"w0", "control", "monitor", "archive"}
    until(lambda: _is_ready(gateway.url + "/v2/health/ready") and _is_ready(gateway.admin_url + "/health/ready"), within_s=30)


def test_hung_worker_is_killed_and_its_prediction_blamed(start_gateway, until, write_linear_model, tmp_path):
    """A worker whose loop stands still is killed within the bound, and a successor serves."""
    gateway = start_gateway(environment={"HEADGATE_SUPERVISOR_HANG_S": "1"})
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"))
    before = gateway.children()["w0"]
    os.kill(before, signal.SIGSTOP)
    until(lambda: gateway.children().get("w0", before) != before, within_s=30)
    body = {"inputs": [{"name": "features", "shape": [1, 20], "datatype": "FP32", "data": [0.0] * 20}]}
    answer = until(lambda: _posted(gateway.url + "/v2/models/delays/infer", body), within_s=30)
    assert answer["model_version"] == "1"


def test_planes_end_with_their_supervisor(start_gateway, until):
    """When the supervisor itself is killed, no plane is left, and the directory can be used again."""
    gateway = start_gateway()
    children = gateway.children()
    gateway.process.kill()
    gateway.process.wait()
    until(lambda: not any(_runs(pid) for pid in children.values()), within_s=30)
    again = start_gateway(data_dir=gateway.data_dir)
    assert len(again.children()) == 4


def test_plane_that_its_supervisor_did_not_live_to_see_ends_at_once(start_gateway):
    """Whose supervisor died before the plane could ask to be told of it does not stay for ever."""
    gateway = start_gateway()
    settings, supervisor = DataDirectory(gateway.data_dir).settings, gateway.process.pid  # which is not its parent
    plane = ["plane", "archive", "--settings", str(settings), "--supervisor", str(supervisor)]
    assert subprocess.run([sys.executable, "-m", "gateway", *plane], timeout=60, check=False).returncode == 0


def test_second_wish_to_stop_changes_nothing(start_gateway, until):
    """However often SIGTERM and SIGINT come, the stop goes on in order and ends with exit code 0."""
    gateway = start_gateway()
    children = gateway.children()
    for _ in range(20):
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.send_signal(signal.SIGINT)
    assert gateway.stop() == 0
    assert not any(_runs(pid) for pid in children.values())


def test_stop_answers_what_is_in_flight(start_gateway, write_linear_model, tmp_path):
    """SIGTERM ends with exit code 0, and every stream of the log is closed by its last record."""
    gateway = start_gateway("--workers", "2")
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"))
    body = {"inputs": [{"name": "features", "shape": [1, 20], "datatype": "FP32", "data": [0.0] * 20}]}
    ids = [httpx.post(gateway.url + "/v2/models/delays/infer", json=body).headers["Gateway-Prediction-Id"] for _ in range(20)]
    assert gateway.stop() == 0
    reader = SegmentReader(gateway.data_dir / "log")
    logged = []
    for stream in reader.streams():
        records = [record for _, record in reader.read(stream, Offset(0), 100_000).records]
        assert type(records[-1]).__name__ == "StreamEnd"
        logged += [one for one in records if isinstance(one, PredictionRecord)]
    assert sorted(one.prediction_id for one in logged) == sorted(ids)
    assert all(one.outcome is Outcome.OK for one in logged)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def _posted(url: str, body: dict[str, object]) -> dict[str, object] | None:
    try:
        answer = httpx.post(url, json=body, timeout=2)
    except httpx.HTTPError:
        return None
    return json.loads(answer.content) if answer.status_code == 200 else None


def _runs(pid: int) -> bool:
    try:
        return "plane" in Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return False
