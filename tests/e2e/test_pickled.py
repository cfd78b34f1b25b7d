"""A pickled scikit-learn pipeline from the command line to answers over HTTP, and what happens when its process is shot."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
from pathlib import Path

import httpx
import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner, Result

from gateway.client import AdminClient, RequestFailed
from gateway.commands.app import app

ROWS, CLASSES = make_classification(300, 4, random_state=1)


def headgate(gateway, *words: object) -> Result:
    """Run the command line on a gateway, in this process."""
    result = CliRunner().invoke(app, [*map(str, words), "--data-dir", str(gateway.data_dir)])
    assert result.exit_code == 0, result.output
    return result


def forks(gateway) -> list[int]:
    """Return the processes that hold an unpickled model: grandchildren of the worker."""
    found = [gateway.children()["w0"]]
    for _ in range(2):
        listed = [subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout for pid in found]
        found = [int(pid) for text in listed for pid in text.split()]
    return found


def infer(gateway, rows: np.ndarray) -> httpx.Response:
    tensor = {"name": "input", "datatype": "FP64", "shape": list(rows.shape), "data": rows.reshape(-1).tolist()}
    return httpx.post(f"{gateway.url}/v2/models/late/infer", json={"inputs": [tensor]})


def test_pickle_is_registered_served_and_survives_its_process(start_gateway, tmp_path, until):
    """The answers over HTTP are the pipeline's own; a killed process costs at most its caller; the scan is shown."""
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, CLASSES)
    joblib.dump(model, tmp_path / "late.joblib")
    gateway = start_gateway()
    registered = headgate(gateway, "models", "register", "late", tmp_path / "late.joblib", "--task", "binary")
    assert "this sklearn model may run faster as ONNX" in registered.stdout
    shown = headgate(gateway, "models", "show", "late", "1").stdout
    assert "sklearn.linear_model._logistic:LogisticRegression" in shown
    assert "predict_proba(array)" in shown

    answer = infer(gateway, ROWS[:2])
    assert answer.status_code == 200, answer.text
    assert np.array_equal(np.reshape(answer.json()["outputs"][0]["data"], (2, 2)), model.predict_proba(ROWS[:2]))

    (fork,) = forks(gateway)
    for pid in (gateway.children()["w0"], fork):
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert ("sklearn" in maps) == (pid == fork), "only the model's own process has loaded scikit-learn"
    os.kill(fork, signal.SIGKILL)
    assert infer(gateway, ROWS[:2]).status_code in (200, 500)
    until(lambda: infer(gateway, ROWS[:2]).status_code == 200)
    assert fork not in forks(gateway)


def test_pickle_needs_a_scope_of_its_own(start_gateway, tmp_path):
    """A token that may register versions may not register pickles, which are programs."""
    path = tmp_path / "late.pkl"
    path.write_bytes(pickle.dumps({}))
    gateway = start_gateway()
    token = AdminClient(gateway.admin_url, gateway.token).create_key("ci", ["register"])["token"]
    with pytest.raises(RequestFailed, match="register_pickled"):
        AdminClient(gateway.admin_url, str(token)).register("late", path, {"runtime": "pickled"})
