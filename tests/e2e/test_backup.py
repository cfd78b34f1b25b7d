"""`backup` beside a gateway that serves, `restore` elsewhere: the same answers, every earlier prediction, the same audit log."""

from __future__ import annotations

import json
import threading

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gateway.commands.app import app
from gateway.compose.start import prepare_data
from gateway.settings import Settings

ROWS = np.random.default_rng(5).normal(size=(20, 20)).round(3).tolist()
QUICK = {"HEADGATE_LOG_SEGMENT_AGE_S": "0.5", "HEADGATE_ARCHIVE_POLL_S": "0.1", "HEADGATE_MONITOR_CHECKPOINT_S": "0.2"}


def headgate(*words: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, list(map(str, words)))


def answered(gateway, row: list[float]) -> tuple[str, list[float]]:
    """Return a prediction's id and its answer."""
    body = {"inputs": [{"name": "features", "shape": [1, 20], "datatype": "FP32", "data": row}]}
    answer = httpx.post(f"{gateway.url}/v2/models/delays/infer", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["parameters"]["prediction_id"], answer.json()["outputs"][0]["data"]


@pytest.mark.timeout(300)  # two gateways, one after the other
def test_restored_gateway_goes_on_where_the_backup_was_made(start_gateway, until, write_linear_model, tmp_path):
    """A backup under traffic holds all that was answered before; restored, it answers to the bit and can be backed up again."""
    gateway = start_gateway(environment=QUICK)
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"))
    gateway.put_route("delays", {"model": "delays", "variants": [{"name": "champion", "version": "1", "weight": 10_000}]})
    before = [answered(gateway, row) for row in ROWS]
    until(lambda: list((gateway.data_dir / "archive").rglob("route=delays/*/*.parquet")), within_s=60)
    before += [answered(gateway, row) for row in ROWS]  # of which some are in the log alone
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            answered(gateway, ROWS[0])

    traffic = threading.Thread(target=go_on)
    traffic.start()
    try:
        made = headgate("backup", tmp_path / "backup", "--data-dir", gateway.data_dir)
    finally:
        stop.set()
        traffic.join()
    assert made.exit_code == 0, made.output
    assert headgate("backup", tmp_path / "backup", "--data-dir", gateway.data_dir).exit_code == 1
    shown = gateway.admin.get("/routes/delays").json()
    assert gateway.stop() == 0

    restored = headgate("restore", tmp_path / "backup", "--data-dir", tmp_path / "elsewhere")
    assert restored.exit_code == 0, restored.output
    other = start_gateway(data_dir=tmp_path / "elsewhere", environment=QUICK)
    assert other.token != gateway.token
    assert [answer for _, answer in (answered(other, row) for row in ROWS)] == [answer for _, answer in before[: len(ROWS)]]
    assert other.admin.get("/routes/delays").json()["variants"] == shown["variants"]
    listed = other.admin.get("/predictions", params={"limit": 10_000}).json()["predictions"]
    ids = [body["prediction_id"] for body in listed]
    assert len(ids) == len(set(ids))
    assert {id for id, _ in before} <= set(ids)
    verified = headgate("audit", "verify", "--data-dir", other.data_dir, "--json")
    assert verified.exit_code == 0, verified.output
    again = headgate("backup", tmp_path / "again", "--data-dir", other.data_dir)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("inside", ["", "inside", "log/inside", "link/inside"])
def test_backup_inside_what_it_copies_is_refused(tmp_path, inside):
    """A backup in the data directory would be lost with it, and copied by the next; nothing is made there, by whatever path."""
    data = tmp_path / "data"
    prepare_data(Settings(data_dir=data))
    (data / "link").symlink_to(data)
    done = headgate("backup", data / inside, "--data-dir", data)
    assert (done.exit_code, "outside" in done.stderr) == (1, True)
    assert not list(data.rglob("inside"))


def test_restore_refuses_what_is_no_whole_backup(tmp_path):
    """A changed byte, a backup that did not end and a directory in use are refused, and nothing is left behind."""
    data, backup, to = tmp_path / "data", tmp_path / "backup", tmp_path / "to"
    prepare_data(Settings(data_dir=data))
    (data / "log.secret").write_text("f" * 64)
    for name in ("admin.token", "visits.secret"):
        (data / name).write_text("secret")
    assert headgate("backup", backup, "--data-dir", data).exit_code == 0
    listed = json.loads((backup / "backup.json").read_text())
    assert {"registry.db", "checkpoints.db", "log.secret"} <= set(listed["files"])
    assert not {"admin.token", "visits.secret"} & set(listed["files"])

    in_use = headgate("restore", backup, "--data-dir", data)
    assert (in_use.exit_code, "not empty" in in_use.stderr) == (1, True)

    (backup / "log.secret").write_text("f" * 63 + "e")
    changed = headgate("restore", backup, "--data-dir", to)
    assert (changed.exit_code, "not as it was" in changed.stderr) == (1, True)
    (backup / "log.secret").write_text("f" * 64)

    (backup / "backup.json").rename(tmp_path / "list")
    unfinished = headgate("restore", backup, "--data-dir", to)
    assert (unfinished.exit_code, "did not end" in unfinished.stderr) == (1, True)
    assert not to.exists()
    (tmp_path / "list").rename(backup / "backup.json")
    assert headgate("restore", backup, "--data-dir", to).exit_code == 0
    assert (to / "registry.db").is_file()
