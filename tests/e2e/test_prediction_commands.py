"""`predict`, `predictions` and `ground-truth` against a whole gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner, Result

from gateway.client import PredictionClient, RequestFailed
from gateway.commands.app import app

ROW = [0.1] * 20


def headgate(gateway, *words: object, stdin: str | None = None) -> Result:
    """Run the command line on a gateway, in this process."""
    return CliRunner().invoke(app, [*map(str, words), "--data-dir", str(gateway.data_dir)], input=stdin)


def parsed(result: Result) -> list[dict[str, object]]:
    """Return the JSON objects that a command printed, one a line."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def gateway(start_gateway, write_linear_model, tmp_path):
    """Start a gateway with two versions of one model and no route."""
    started = start_gateway()
    started.register("delays", write_linear_model(tmp_path / "1.onnx"))
    started.register("delays", write_linear_model(tmp_path / "2.onnx", scale=0.5))
    return started


def test_prediction_is_made_looked_at_and_scored(gateway, tmp_path):
    """What `predict` answers stands in the log under the id it printed, with the ground truth that came later."""
    answer = json.loads(headgate(gateway, "predict", "delays", json.dumps([ROW, ROW]), "--key", "N1", "--json").stdout)
    assert (answer["version"], len(answer["predictions"])) == ("1", 2)
    piped = json.loads(headgate(gateway, "predict", "delays", "--file", "-", "--json", stdin=f"[{ROW}]").stdout)
    assert piped["predictions"] == answer["predictions"][:1]
    request = tmp_path / "request.json"
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 20], "data": ROW}
    request.write_text(json.dumps({"inputs": [tensor]}))
    protocol = ("predict", "delays", "--infer", "--file", request, "--version", "2", "--json")
    pinned = json.loads(headgate(gateway, *protocol).stdout)
    assert (pinned["version"], pinned["outputs"][0]["name"]) == ("2", "probability")
    assert headgate(gateway, "predict", "delays", "[[1]]", "--version", "2").exit_code == 2

    id = answer["prediction_id"]
    assert headgate(gateway, "ground-truth", id, "1").stdout == "accepted 1\n"
    truths = tmp_path / "truths.jsonl"
    truths.write_text(json.dumps({"prediction_id": id, "value": "yes", "row": 1, "observed_at": 1_700_000_000}) + "\n")
    assert headgate(gateway, "ground-truth", "--file", truths).exit_code == 0

    record = json.loads(headgate(gateway, "predictions", "show", id, "--json").stdout)
    assert (record["version"], record["kind"], record["outcome"]) == ("1", "live", "ok")
    assert [(truth["row"], truth["value"]) for truth in record["ground_truth"]] == [(0, 1), (1, "yes")]
    assert id in headgate(gateway, "predictions", "show", id).stdout
    again = headgate(gateway, "predictions", "show", id, "--recompute", "--json")
    assert (again.exit_code, json.loads(again.stdout)["is_equal"]) == (0, True)
    assert "the same to the bit" in headgate(gateway, "predictions", "show", id, "--recompute").stdout
    newest = parsed(headgate(gateway, "predictions", "tail", "--json"))
    assert [one["prediction_id"] for one in newest] == [id, piped["prediction_id"], pinned["prediction_id"]]
    assert id in headgate(gateway, "predictions", "tail").stdout
    assert [
        one["version"] for one in parsed(headgate(gateway, "predictions", "query", "--version", 2, "--since", "1h", "--json"))
    ] == ["2"]
    assert parsed(headgate(gateway, "predictions", "query", "--until", "1h", "--json")) == []
    assert headgate(gateway, "predictions", "query", "--since", "yesterday").exit_code == 2

    unknown = headgate(gateway, "predict", "nothing", "[[1]]")
    assert (unknown.exit_code, "nothing" in unknown.stderr) == (1, True)
    assert headgate(gateway, "predict", "delays", "[[1]]").exit_code == 1
    assert headgate(gateway, "predict", "delays", "{").exit_code == 2
    assert headgate(gateway, "predictions", "show", "0" * 32).exit_code == 1
    with PredictionClient(gateway.url) as nobody, pytest.raises(RequestFailed) as refused:
        nobody.ground_truth([{"prediction_id": id, "value": 0}])
    assert refused.value.status == 401


def test_history_is_exported_and_followed(gateway, tmp_path, until):
    """`export` writes every matching row once and never over a file; `tail --follow` shows each new record once."""
    with PredictionClient(gateway.url) as client:
        for _ in range(150):
            client.predict("delays", [ROW, ROW])
        file = tmp_path / "delays.parquet"
        assert headgate(gateway, "predictions", "export", file, "--route", "delays").exit_code == 0
        assert duckdb.sql(f"SELECT count(DISTINCT prediction_id), count(*) FROM '{file}'").fetchall() == [(150, 300)]
        assert headgate(gateway, "predictions", "export", file).exit_code == 1
        assert sorted(tmp_path.glob("*.parquet*")) == [file]

        shown = tmp_path / "tail.jsonl"
        with shown.open("w") as out:
            command = [sys.executable, "-m", "gateway", "predictions", "tail", "-n", "5", "--follow", "--json"]
            tail = subprocess.Popen([*command, "--data-dir", str(gateway.data_dir)], stdout=out)
        try:
            until(lambda: len(_ids(shown)) == 5)
            ids = [client.predict("delays", [ROW]).prediction_id for _ in range(20)]
            until(lambda: len(_ids(shown)) >= 25)
        finally:
            tail.terminate()
            tail.wait(10)
    assert sorted(_ids(shown)[5:]) == sorted(ids)


def _ids(file: Path) -> list[str]:
    return [json.loads(line)["prediction_id"] for line in file.read_text().splitlines() if line.endswith("}")]
