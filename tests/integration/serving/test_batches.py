"""Requests that are joined into one run: each gets its own answer, and the log says enough to compute it again to the bit."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from adapters.runtimes.onnx import OnnxRuntime
from gateway.core.changes import PutChampion, PutVersion
from gateway.core.tensors import Tensor

NUMBERS = st.one_of(st.none(), st.floats(-1e6, 1e6, width=32))
REQUESTS = st.lists(st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=1, max_size=5), min_size=2, max_size=24)


@pytest.fixture(scope="module")
def served(tmp_path_factory, models, until, start_worker):
    """Return a worker with a model whose bits depend on the size of the batch, and an instance to compute with."""
    worker = start_worker(tmp_path_factory.mktemp("batches"))
    random = np.random.default_rng(3)
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "w1", "b1"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"], axis=1),
    ]
    sizes = {"mean": (6,), "scale": (6,), "w1": (6, 33), "b1": (33,), "w2": (33, 3), "b2": (3,)}
    constants = {name: random.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    sides = [("x", TensorProto.FLOAT, ["n", 6])], [("y", TensorProto.FLOAT, ["n", 3])]
    made = models.graph(nodes, *sides, constants)
    version = worker.register("m", "1", made, champion=True)
    worker.until_served(until)
    return worker, OnnxRuntime().load(worker.artifacts.path(version.digest), version)


def _sent_together(worker, bodies: list[bytes], receive) -> list[dict[str, object]]:
    """Send every request on a connection of its own before reading any answer."""
    connections = [socket.create_connection(("127.0.0.1", worker.port), 10) for _ in bodies]
    for connection in connections:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
        receive(connection)  # accepted, of which a turn does one
    with worker.held():
        for connection, body in zip(connections, bodies, strict=True):
            head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
    answers = []
    for connection in connections:
        with connection:
            answers.append(orjson.loads(receive(connection).partition(b"\r\n\r\n")[2]))
    return answers


def _computed_again(instance, record) -> np.ndarray:
    """Run a record's inputs at the recorded place of a batch of the recorded size; the other rows do not matter."""
    rows = record.inputs[0].data
    batch = np.zeros((record.batch_rows, 6), np.float32)
    batch[record.batch_position : record.batch_position + len(rows)] = rows
    return instance.predict({"x": batch})["y"][record.batch_position : record.batch_position + len(rows)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS)
def test_answers_of_a_batch_are_what_the_record_recomputes(served, receive, requests):
    """Whatever arrives together, with missing values among it: answer, record and recomputation agree to the bit."""
    worker, instance = served
    bodies = [
        orjson.dumps({"inputs": [{"name": "x", "shape": [len(rows), 6], "datatype": "FP32", "data": rows}]}) for rows in requests
    ]
    answers = _sent_together(worker, bodies, receive)
    records = {record.prediction_id: record for record in worker.predictions()}
    for rows, answer in zip(requests, answers, strict=True):
        record = records[answer["parameters"]["prediction_id"]]
        sent = np.array(rows, np.float32)
        assert record.inputs[0].data.tobytes() == sent.tobytes()
        answered = np.array(answer["outputs"][0]["data"], np.float32).reshape(len(rows), 3)
        logged = record.outputs[0].data
        again = _computed_again(instance, record)
        assert np.array_equal(answered, logged, equal_nan=True)
        assert np.array_equal(logged.view(np.uint32), again.view(np.uint32)) or np.isnan(logged).any()
        assert np.array_equal(logged, again, equal_nan=True)


def test_requests_are_joined(served, receive):
    """What arrives in one turn of the loop runs at once: fewer runs than requests."""
    worker, _ = served
    before = worker.metric("gateway_batch_rows_bucket", model="m")
    body = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 6], "datatype": "FP32", "data": [0] * 6}]})
    _sent_together(worker, [body] * 200, receive)
    assert worker.metric("gateway_batch_rows_bucket", model="m") - before <= 10
    records = worker.predictions()[-200:]
    assert max(record.batch_rows for record in records) <= 64
    assert any(record.batch_position > 0 for record in records)


def test_rows_of_different_width_are_not_joined(worker, models, until):
    """Tensors that fit an open dimension but differ in it run apart."""
    worker.register("m", "1", models.identity(TensorProto.FLOAT), champion=True)
    worker.until_served(until)
    rows = [[[float(at)] * (1 + at % 3)] for at in range(60)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda data: worker.infer("m", data), rows))
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [data[0] for data in rows]


def test_version_that_does_not_batch_runs_alone(worker, models, until):
    """A signature without a row dimension runs one request at a time."""
    worker.register("m", "1", models.identity(TensorProto.FLOAT, (2, 2)), champion=True)
    worker.until_served(until)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda at: worker.infer("m", [[at, 0], [0, at]]), range(40)))
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[at, 0, 0, at] for at in range(40)]
    assert {(record.batch_rows, record.batch_position) for record in worker.predictions()} == {(1, 0)}


def test_batches_of_a_thread_are_joined_too(make_worker, models, until):
    """While an expensive version runs, what waits for it is joined into its next run."""
    worker = make_worker(inline_us_max=0.0).start()
    worker.register("m", "1", models.loop(), champion=True)
    worker.until_served(until)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda at: worker.infer("m", [[at % 5]]), range(96)))
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[at % 5] for at in range(96)]
    assert max(record.batch_rows for record in worker.predictions()) > 1


def test_version_whose_rows_depend_on_each_other_runs_each_request_alone(make_worker, models, until):
    """What validation found not to be joinable is not joined, however much waits; a request's own rows stay together."""
    worker = make_worker(inline_us_max=0.0).start()
    made = worker.register("m", "1", models.loop())
    worker.commit(PutVersion(replace(made, version="2", is_joinable=False)), PutChampion("m", "2"))
    worker.until_served(until)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda at: worker.infer("m", [[at % 5], [at % 3]]), range(64)))
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[at % 5, at % 3] for at in range(64)]
    assert {(record.batch_rows, record.batch_position) for record in worker.predictions()} == {(2, 0)}


def test_tensors_of_a_batch_are_views_of_their_own_rows(served):
    """The outputs in a record are this request's rows alone."""
    worker, _ = served
    record = worker.predictions()[-1]
    assert all(isinstance(tensor, Tensor) and tensor.data.shape[0] == record.inputs[0].data.shape[0] for tensor in record.outputs)
