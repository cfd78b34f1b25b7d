"""Logged predictions through the admin API: filters, forms, one by its id, and failures."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pytest

from gateway.core.records import GroundTruthRecord, PredictionRecord
from gateway.core.tensors import Datatype, Tensor
from tests.records import numbered_id, prediction

BEGIN_S = 1_700_000_000.0
COUNT = 50


def _record(number: int) -> PredictionRecord:
    version = "2" if number % 5 == 0 else "1"
    variant = "challenger" if version == "2" else "champion"
    return prediction(
        prediction_id=numbered_id(number),
        time_s=BEGIN_S + number,
        route="delays" if number < COUNT - 5 else "other",
        variant=variant,
        version=version,
        inputs=(Tensor("features", Datatype.FP32, np.array([[number, np.nan]], np.float32)),),
        outputs=(Tensor("probability", Datatype.FP32, np.array([[0.5]], np.float32)),),
    )


@pytest.fixture
def logged(control):
    """Return a control plane over a log of fifty predictions, one of which has ground truth."""
    records = [_record(number) for number in range(COUNT)]
    truth = GroundTruthRecord(records[3].prediction_id, BEGIN_S + 100, 0, 1, BEGIN_S + 99, "backend")
    control.write_log(*records, truth)
    return control


def _list(control, accept="application/json", **query):
    answer = control.admin.get("/api/v1/predictions", params=query, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    return answer


def test_predictions_are_filtered_newest_first(logged):
    """Route, version and time choose predictions, and the limit keeps the newest."""
    numbers = [
        int(one["prediction_id"][-12:], 16)
        for one in _list(
            logged, route="delays", version="2", since=str(BEGIN_S + 10), until="2023-11-14T22:13:55+00:00", limit="3"
        ).json()["predictions"]
    ]
    assert numbers == [30, 25, 20]


def test_prediction_is_found_with_its_ground_truth(logged):
    """One prediction is found by its id, in any spelling of a UUID, with what became known later; an unknown id is a 404."""
    id = _record(3).prediction_id
    found = logged.admin.get(f"/api/v1/predictions/{id}").json()
    assert (found["prediction_id"], found["version"]) == (id, "1")
    for spelled in (id.upper(), id.replace("-", "")):
        assert logged.admin.get(f"/api/v1/predictions/{spelled}").json() == found
    assert [truth["value"] for truth in found["ground_truth"]] == [1]
    assert logged.admin.get("/api/v1/predictions/018bcfe5-6800-7000-8000-ffffffffffff").status_code == 404
    assert logged.admin.get("/api/v1/predictions/none").json()["hint"] == "its id is a UUID"


def test_span_that_ends_before_it_begins_is_refused(logged):
    """A span that nothing can lie in is the caller's slip, not an empty answer after a search."""
    for since, until in (("2", "1"), ("1", "1")):
        answer = logged.admin.get("/api/v1/predictions", params={"since": since, "until": until})
        assert (answer.status_code, answer.json()["error"]) == (400, "query.until: expected a time after query.since")


def test_forms_hold_the_same_predictions(logged, tmp_path):
    """JSON, JSON Lines and Parquet hold the same predictions."""
    ids = [one["prediction_id"] for one in _list(logged, limit="1000").json()["predictions"]]
    assert len(ids) == COUNT
    lines = _list(logged, "application/x-ndjson", limit="1000")
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["prediction_id"] for line in io.StringIO(lines.text)] == ids
    parquet = tmp_path / "found.parquet"
    parquet.write_bytes(_list(logged, "application/vnd.apache.parquet", limit="1000").content)
    found = duckdb.sql(f"SELECT prediction_id FROM '{parquet}'").fetchall()
    assert {id for (id,) in found} == set(ids)


def test_nothing_found_is_an_empty_answer(logged):
    """No match is an answer like any other, in every form."""
    assert _list(logged, route="none").json() == {"predictions": []}
    assert _list(logged, "application/x-ndjson", route="none").content == b""
    assert _list(logged, "application/vnd.apache.parquet", route="none").content.startswith(b"PAR1")


@pytest.mark.parametrize("query", ["since=yesterday", "limit=0", "limit=10001", "since=-1", "since=1e400", "router=x"])
def test_wrong_query_is_refused(logged, query):
    """A filter that is not of its form is a 400."""
    assert logged.admin.get(f"/api/v1/predictions?{query}").status_code == 400


def test_form_that_is_not_offered_is_refused(logged):
    """An Accept that names no offered form is a 400 that lists them."""
    answer = logged.admin.get("/api/v1/predictions", headers={"Accept": "image/png"})
    assert answer.status_code == 400
    assert "parquet" in answer.json()["error"]


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "application/vnd.apache.parquet"])
def test_broken_log_is_a_clear_failure(logged, accept):
    """A log that cannot be read is a 503 in every form, before an answer has begun."""
    [segment] = Path(logged.data / "log" / "w0").iterdir()
    content = segment.read_bytes()
    segment.write_bytes(content[:200] + b"\0broken\n" + content[210:])
    answer = logged.admin.get("/api/v1/predictions", params={"limit": "1000"}, headers={"Accept": accept})
    assert answer.status_code == 503
    assert answer.json()["error"]


def _ask(client, sql, **more):
    return client.post("/api/v1/predictions/query", json={"sql": sql, **more})


def test_question_in_sql_is_answered(logged):
    """A question's answer has typed columns and rows, from what is not archived yet too."""
    answer = _ask(logged.admin, "SELECT version, count(*) AS n FROM predictions GROUP BY version ORDER BY version")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "columns": [{"name": "version", "type": "VARCHAR"}, {"name": "n", "type": "BIGINT"}],
        "rows": [["1", 40], ["2", 10]],
        "is_cut": False,
    }
    cut = _ask(logged.admin, "SELECT time FROM predictions", limit=7).json()
    assert (len(cut["rows"]), cut["is_cut"]) == (7, True)
    assert _ask(logged.admin, "SELECT count(*) FROM predictions", archived_only=True).json()["rows"] == [[0]]


def test_question_in_sql_needs_the_right_and_a_form(logged):
    """Who may not read predictions may not ask them; what is wrong with a question is a 4xx that names it."""
    assert _ask(logged.client_with("read", "operate"), "SELECT 1").status_code == 403
    assert _ask(logged.client(None), "SELECT 1").status_code == 401
    assert _ask(logged.client_with("predictions"), "SELECT 1").status_code == 200
    assert _ask(logged.admin, "SELECT 1", rows=5).status_code == 400
    assert _ask(logged.admin, "SELECT 1", limit=10**9).status_code == 400
    assert _ask(logged.admin, "x" * 30_000).status_code == 400
    refused = _ask(logged.admin, "SELECT * FROM read_text('/etc/passwd')")
    assert refused.status_code == 422
    assert "disabled" in refused.json()["error"]


def test_questions_in_sql_wait_for_each_other_only_so_long(start_control):
    """While as many questions are answered as may be, another is told to come back, and the rest of the plane answers."""
    control = start_control(question_timeout_s=1.0)
    endless = "SELECT sum(range % 7) FROM range(1000000000000000)"
    with ThreadPoolExecutor(3) as threads:
        answers = [one.status_code for one in threads.map(lambda _: _ask(control.client(control.token), endless), range(3))]
    assert 422 in answers
    assert set(answers) <= {422, 503}
