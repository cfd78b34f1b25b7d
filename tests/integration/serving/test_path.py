"""The path of a prediction: what is answered, and what is recorded."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from gateway.core.records import Kind, Outcome
from gateway.core.split import hashed_key


@pytest.fixture
def served(worker, models, until):
    """Return a worker with a linear model of 4 features as the champion of `m`."""
    worker.register("m", "1", models.linear(), columns=["a", "b", "c", "d"], champion=True)
    worker.until_served(until)
    return worker


def test_path_answers_and_records(served):
    """An answered prediction is in the log, with what was sent, what was answered and who answered."""
    answer = served.infer("m", [[1, 2, 3, 4]], id="mine")
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"] == "mine"
    assert (body["model_name"], body["model_version"], body["parameters"]["variant"]) == ("m", "1", "champion")
    assert body["outputs"] == [{"name": "y", "shape": [1, 1], "datatype": "FP32", "data": [10.0]}]
    [record] = served.predictions()
    assert record.prediction_id == body["parameters"]["prediction_id"] == answer.headers["gateway-prediction-id"]
    assert (answer.headers["gateway-version"], answer.headers["gateway-variant"]) == ("1", "champion")
    assert (record.kind, record.outcome, record.version, record.variant) == (Kind.LIVE, Outcome.OK, "1", "champion")
    assert (record.assigned, record.route, record.model) == ("champion", "m", "m")
    assert record.inputs[0].data.tolist() == [[1, 2, 3, 4]]
    assert record.outputs[0].data.tolist() == [[10.0]]
    assert (record.batch_rows, record.batch_position) == (1, 0)
    assert [attempt.outcome for attempt in record.attempts] == [Outcome.OK]
    assert not record.is_keyed
    assert uuid.UUID(record.prediction_id).version == 7


def test_path_takes_many_named_inputs(worker, models, until):
    """Twenty named inputs of shape [n, 1] are one prediction a row."""
    worker.register("wide", "1", models.named(20), champion=True)
    worker.until_served(until)
    inputs = [{"name": f"c{at}", "shape": [2, 1], "datatype": "FP32", "data": [at, 100]} for at in range(20)]
    answer = worker.client.post("/v2/models/wide/infer", json={"inputs": inputs})
    assert answer.json()["outputs"][0]["data"] == [190.0, 2000.0]
    assert len(worker.predictions()[0].inputs) == 20


@pytest.mark.parametrize("row", [[1, 2, 3, 4], {"d": 4, "a": 1, "b": 2, "c": 3}])
def test_rows_by_position_and_by_name_give_the_same(served, row):
    """A row is the same by position and by column name, in whatever order."""
    answer = served.client.post("/v1/models/m:predict", json={"instances": [row, row]})
    assert answer.json() == {"predictions": [10.0, 10.0]}
    assert answer.headers["gateway-version"] == "1"
    assert served.predictions()[0].inputs[0].data.tolist() == [[1, 2, 3, 4]] * 2


def test_rows_reach_many_named_inputs(worker, models, until):
    """Rows by name go to the inputs of those names."""
    worker.register("wide", "1", models.named(3), champion=True)
    worker.until_served(until)
    answer = worker.client.post("/v1/models/wide:predict", json={"instances": [{"c2": 1, "c0": 2, "c1": 3}]})
    assert answer.json() == {"predictions": [6.0]}


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": 1}],
        [{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}],
        [[1, 2, 3]],
        [[1, 2, 3, 4], {"a": 1}],
        [],
        [1],
        "x",
        [[1, 2, 3, "4"]],
    ],
)
def test_rows_that_do_not_fit_are_refused(served, rows):
    """A row with a missing, an unknown or a wrong value is the caller's fault, and leaves no record."""
    answer = served.client.post("/v1/models/m:predict", json={"instances": rows})
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert served.predictions() == []


def test_null_in_a_float_tensor_is_nan(served):
    """A missing value arrives at the model as NaN, is answered as null and logged to the bit."""
    answer = served.infer("m", [[1, None, 3, 4]])
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [None]
    assert np.isnan(served.predictions()[0].inputs[0].data[0, 1])


def test_infinity_in_an_answer_is_refused_with_a_way_out(worker, models, until):
    """JSON cannot carry an infinity: the caller is told so, and the prediction stays on record."""
    worker.register("m", "1", models.linear(1, scale=3e38), champion=True)
    worker.until_served(until)
    answer = worker.client.post("/v2/models/m/infer", json=_one([[None]], [1, 1]))
    assert answer.status_code == 200
    overflowing = worker.infer("m", [[100]])
    assert overflowing.status_code == 500  # finite inputs, an infinite output: the version's fault
    assert [record.outcome for record in worker.predictions()] == [Outcome.OK, Outcome.INVALID]


def _one(data: object, shape: list[int]) -> dict[str, object]:
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]}


def test_outputs_come_as_asked(worker, models, until):
    """Only the outputs asked for are sent, in the order asked; all of them are logged."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Identity", ["x"], ["same"])]
    sides = [("x", TensorProto.FLOAT, ["n", 1])], [("minus", TensorProto.FLOAT, ["n", 1]), ("same", TensorProto.FLOAT, ["n", 1])]
    worker.register("m", "1", models.graph(nodes, *sides), champion=True)
    worker.until_served(until)
    for wanted in (["same"], ["same", "minus"], ["minus", "same"]):
        answer = worker.infer("m", [[1]], outputs=[{"name": name} for name in wanted])
        assert [output["name"] for output in answer.json()["outputs"]] == wanted
    assert [output["name"] for output in worker.infer("m", [[1]], outputs=[]).json()["outputs"]] == ["minus", "same"]
    assert worker.infer("m", [[1]], outputs=[{"name": "other"}]).status_code == 400
    assert {len(record.outputs) for record in worker.predictions()} == {2}
    rows = worker.client.post("/v1/models/m:predict", json={"instances": [[1], [2]]}).json()
    assert rows == {"predictions": [{"minus": -1.0, "same": 1.0}, {"minus": -2.0, "same": 2.0}]}


def test_pinned_version_runs_and_bypasses_the_split(served, models, until):
    """A version that the caller names runs, is loaded for it, and its record says that it was pinned."""
    served.register("m", "v10", models.linear(scale=2.0))
    answer = served.infer("m", [[1, 2, 3, 4]], version="v10")
    assert answer.json()["model_version"] == "v10"
    assert answer.json()["outputs"][0]["data"] == [20.0]
    assert [record.kind for record in served.predictions()] == [Kind.PINNED]
    assert served.infer("m", [[1, 2, 3, 4]], version="none").status_code == 404
    assert served.client.get("/v2/models/m").json()["versions"] == ["1", "v10"]


@pytest.mark.parametrize(
    ("assignment", "sent"),
    [
        ({"header": "X-Customer"}, {"headers": {"X-Customer": "k"}}),
        ({"parameter": "customer"}, {"parameters": {"customer": "k"}}),
        ({"parameter": "customer"}, {"headers": {"Gateway-Assignment-Key": "k"}}),
        ({"header": "X-Customer"}, {"parameters": {"assignment_key": "k"}}),
    ],
)
def test_assignment_key_is_read_where_the_route_says_or_in_the_usual_places(worker, models, until, assignment, sent):
    """The same key gives the same variant every time, and stands in the record hashed."""
    for version in "12":
        worker.register("m", version, models.linear())
    variants = [{"name": "a", "version": "1", "weight": 5000}, {"name": "b", "version": "2", "weight": 5000}]
    worker.route("r", {"model": "m", "variants": variants, "assignment": assignment})
    worker.until_served(until)
    answered = {worker.infer("r", [[1, 2, 3, 4]], **sent).json()["parameters"]["variant"] for _ in range(20)}
    assert len(answered) == 1
    assert {(record.assignment_key, record.is_keyed) for record in worker.predictions()} == {(hashed_key("k"), True)}


def test_assignment_key_may_be_an_input(worker, models, until):
    """A column of the wide tensor, by its name, can be the assignment key, the same in either form of body."""
    for version in "12":
        worker.register("m", version, models.linear(), columns=["a", "b", "c", "customer"])
    variants = [{"name": "a", "version": "1", "weight": 5000}, {"name": "b", "version": "2", "weight": 5000}]
    worker.route("r", {"model": "m", "variants": variants, "assignment": {"input": "customer"}})
    worker.until_served(until)
    worker.infer("r", [[1, 2, 3, 4]])
    worker.client.post("/v1/models/r:predict", json={"instances": [[7, 8, 9, 4]]})
    keys = [record.assignment_key for record in worker.predictions()]
    assert keys == [hashed_key("4"), hashed_key("4")]


def test_split_follows_the_weights_and_names_who_answered(worker, models, until):
    """Without keys the shares are the weights', and each answer is its version's own."""
    worker.register("m", "1", models.linear())
    worker.register("m", "2", models.linear(scale=2.0))
    worker.route(
        "r",
        {
            "model": "m",
            "variants": [{"name": "a", "version": "1", "weight": 8000}, {"name": "b", "version": "2", "weight": 2000}],
        },
    )
    worker.until_served(until)
    seen = []
    for _ in range(300):
        body = worker.infer("r", [[1, 2, 3, 4]]).json()
        assert body["outputs"][0]["data"] == [10.0 if body["model_version"] == "1" else 20.0]
        seen.append(body["model_version"])
    assert 30 <= seen.count("2") <= 95  # 60 ± 5 standard deviations
    assert [record.version for record in worker.predictions()] == seen


def test_trace_id_is_recorded(served):
    """The trace id of `traceparent` stands in the record; what is not one is ignored."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    served.infer("m", [[1, 2, 3, 4]], headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    served.infer("m", [[1, 2, 3, 4]], headers={"traceparent": "nonsense"})
    assert [record.trace_id for record in served.predictions()] == [trace, ""]


def test_strings_cross_as_bytes(worker, models, until):
    """Text goes through a model of strings and back, whatever its length and alphabet."""
    from onnx import TensorProto

    worker.register("m", "1", models.identity(TensorProto.STRING), champion=True)
    worker.until_served(until)
    texts = ["", "a", "漢字", "🙂", "x" * 100_000]
    answer = worker.infer("m", texts, shape=[1, 5], datatype="BYTES")
    assert answer.json()["outputs"][0]["data"] == texts
    assert worker.predictions()[0].inputs[0].data[0, 2] == "漢字".encode()


def test_metrics_count_what_the_log_holds(served):
    """Predictions by outcome, their duration and the rows of runs are counted."""
    for _ in range(3):
        served.infer("m", [[1, 2, 3, 4]] * 2, shape=[2, 4])
    served.infer("m", [[1]])
    assert served.metric("gateway_predictions_total", route="m", variant="champion", version="1", kind="live", outcome="ok") == 3
    assert served.metric("gateway_prediction_duration_seconds_bucket", route="m") == 3
    assert served.metric("gateway_batch_rows_sum", model="m") == 6
    assert served.metric("gateway_rejected_requests_total", reason="SignatureMismatch") == 1
    assert served.metric("gateway_log_records_total") >= 3
