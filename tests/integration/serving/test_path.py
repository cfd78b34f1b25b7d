"""The path of a prediction: what is answered, and what is recorded."""

from __future__ import annotations


def test_path_answers_and_records(worker, models, until):
    """An answered prediction is in the log, with what was sent, what was answered and who answered."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    answer = worker.infer("m", [[1, 2, 3, 4]], id="mine")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["id"] == "mine"
    assert body["outputs"] == [{"name": "y", "shape": [1, 1], "datatype": "FP32", "data": [10.0]}]
    [record] = worker.predictions()
    assert record.prediction_id == body["parameters"]["prediction_id"] == answer.headers["gateway-prediction-id"]
