"""Ground truth over HTTP: who may post it, what is accepted, what the log holds."""

from __future__ import annotations

import time

import pytest

from gateway.core.access import Key, Scope, token_digest
from gateway.core.changes import PutKey
from gateway.core.records import GroundTruthRecord

ID = "01a1fd45-6800-7000-8000-000000000001"


@pytest.fixture
def served(worker, until):
    """Return a worker that knows a token for ground truth and one without that scope."""
    for name, scopes in (("truth", {Scope.GROUND_TRUTH}), ("reader", {Scope.READ})):
        worker.commit(PutKey(Key(name, name, token_digest(f"token-{name}"), frozenset(scopes), 0.0)))
    until(lambda: post(worker, {"records": []}).status_code == 200)
    return worker


def post(worker, body: object, token: str = "token-truth"):
    """Post ground truth."""
    return worker.client.post("/api/v1/ground-truth", json=body, headers={"Authorization": f"Bearer {token}"})


def test_truth_is_logged(served):
    """Each outcome becomes a record with its row, value and time, under the poster's name."""
    sent = [
        {"prediction_id": ID, "value": 1},
        {"prediction_id": ID.upper(), "row": 2, "value": "late", "observed_at": 12.5},
        {"prediction_id": ID, "row": 1, "value": False},
    ]
    assert post(served, {"records": sent}).json() == {"accepted": 3}
    records = [record for record in served.records() if isinstance(record, GroundTruthRecord)]
    assert [(record.prediction_id, record.row, record.value, record.principal) for record in records] == [
        (ID, 0, 1, "truth"),
        (ID, 2, "late", "truth"),
        (ID, 1, False, "truth"),
    ]
    assert (records[1].observed_at_s, records[0].observed_at_s) == (12.5, records[0].time_s)
    assert served.metric("gateway_ground_truth_records_total") == 3


def test_truth_needs_a_token_with_its_scope(served):
    """Without a token it is a 401, with one that may not a 403."""
    assert served.client.post("/api/v1/ground-truth", json={"records": []}).status_code == 401
    assert post(served, {"records": []}, "token-unknown").status_code == 401
    assert post(served, {"records": []}, "token-reader").status_code == 403


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"prediction_id": ID},
        {"prediction_id": "x", "value": 1},
        {"prediction_id": ID, "value": None},
        {"prediction_id": ID, "value": [1]},
        {"prediction_id": ID, "value": "x" * 2_000},
        {"prediction_id": ID, "value": 1, "row": -1},
        {"prediction_id": ID, "value": 1, "row": True},
        {"prediction_id": ID, "value": 1, "observed_at": "now"},
        {"prediction_id": ID, "value": 1, "observed_at": 1.7e12},
        {"prediction_id": ID, "value": 1, "observed_at": time.time() + 86_400 + 3_600},
        {"prediction_id": ID, "value": 1, "label": 2},
        7,
    ],
)
def test_truth_that_is_wrong_is_refused_as_a_whole(served, record):
    """One wrong record refuses the request, and nothing of it is logged."""
    answer = post(served, {"records": [{"prediction_id": ID, "value": 1}, record]})
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert not any(isinstance(each, GroundTruthRecord) for each in served.records())


def test_truth_is_bounded(served):
    """More records or bytes than the bound are refused."""
    assert post(served, {"records": [{"prediction_id": ID, "value": 1}] * 10_001}).status_code == 400
    assert post(served, {"records": [{"prediction_id": ID, "value": "x" * 5_000_000}]}).status_code == 413


def test_revoked_token_stops_working(served, until):
    """A key that is dropped in the registry is refused as soon as the worker has heard of it."""
    from gateway.core.changes import DropKey

    served.commit(DropKey("truth"))
    until(lambda: post(served, {"records": []}).status_code == 401)
