"""Over gRPC as over HTTP: who may predict and how much, who goes first, who left, and who is refused because others wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import numpy as np
import pytest

from gateway.core.access import Key, Limits, Scope, token_digest
from gateway.core.changes import PutKey
from gateway.serving.grpc import inference_pb2 as pb
from gateway.settings import PredictionTokens

SLOW = np.array([[400]], np.float32)  # thousand turns of the loop model: some 120 ms
ROW = np.array([[1, 2, 3, 4]], np.float32)
_CALLERS = 24  # a run counts for at most a hundred times what warming took, 10 to 50 µs: one must not be late, all must be


@pytest.fixture
def busy(start, models, until):
    """Return a worker whose only version is in the middle of a long run, and a connection."""
    worker, stub = start(inline_us_max=0.0, batch_rows_max=1)
    worker.register("m", "1", models.loop(), cost_us=10, champion=True)
    worker.until_served(until)
    running = stub.method("ModelInfer").future(stub.request("m", "FP32", SLOW), timeout=20)
    until(lambda: not worker.in_flight.is_empty())
    yield worker, stub
    assert running.result().model_version == "1"


def _waiting(stub, value: float, priority: int = 0):
    """Send a request that waits for the run under way."""
    asked = stub.request("m", "FP32", np.array([[value]], np.float32))
    if priority:
        asked.parameters["priority"].uint64_param = priority
    sent = stub.method("ModelInfer").future(asked, timeout=20)
    assert stub.call("ServerLive", pb.ServerLiveRequest())[0].live  # came after it on its connection, so that it waits by now
    return sent


def test_grpc_request_with_priority_goes_before_those_that_wait(busy):
    """The parameter `priority`: 1 goes first, then 2, and what has none last, whenever they came."""
    worker, stub = busy
    asked = [_waiting(stub, value, priority) for value, priority in ((2, 0), (3, 2), (4, 1))]
    assert [sent.result().model_version for sent in asked] == ["1"] * 3
    assert [record.inputs[0].data.item() for record in worker.predictions()] == [SLOW.item(), 4, 3, 2]


def test_grpc_call_that_its_caller_gave_up_does_not_run(busy, until):
    """A call that is cancelled while it waits is not served; the one behind it is."""
    worker, stub = busy
    _waiting(stub, 1).cancel()
    until(lambda: worker.metric("gateway_rejected_requests_total", reason="CallerLeft") == 1)
    assert stub.call("ModelInfer", stub.request("m", "FP32", np.zeros((1, 1), np.float32)))[0].model_version == "1"
    assert len(worker.predictions()) == 2


def test_grpc_refusals_count_under_the_route_of_a_live_prediction(start, models, until):
    """A route that cannot answer counts what it refuses; what names a version, or nothing known, counts under no route."""
    worker, stub = start()
    broken = models.linear()
    worker.register("m", "1", type(broken)(b"not an onnx file", broken.signature), champion=True)
    row = np.zeros((1, 4), np.float32)
    until(lambda: stub.refused("ModelInfer", stub.request("m", "FP32", row))[0] == "UNAVAILABLE")
    stub.refused("ModelInfer", stub.request("m", "FP32", row, version="1"))
    stub.refused("ModelInfer", stub.request("unknown", "FP32", row))
    assert worker.metric("gateway_rejected_requests_total", route="m", reason="NotReady") == 1
    assert worker.metric("gateway_rejected_requests_total", route="", reason="LoadFailed") == 1
    assert worker.metric("gateway_rejected_requests_total", route="unknown") == 0


def test_grpc_predictions_ask_for_a_token_and_keep_its_limits(start, models, until):
    """A missing token, one without the scope, one over its rate and one over its rows are told apart; limits say when again."""
    worker, stub = start(prediction_tokens=PredictionTokens.REQUIRED)
    worker.register("m", "1", models.linear(), champion=True)
    keys = {
        "slow": (Scope.PREDICT, Limits(requests_per_s=0.01, burst=2)),
        "small": (Scope.PREDICT, Limits(rows_per_day=2)),
        "reader": (Scope.READ, Limits()),
    }
    for name, (scope, limits) in keys.items():
        worker.commit(PutKey(replace(Key(name, name, token_digest(name), frozenset({scope}), 0.0), limits=limits)))
    worker.until_served(until)

    def ask(token: str, rows: int = 1) -> tuple[str, int]:
        asked = stub.request("m", "FP32", np.repeat(ROW, rows, axis=0))
        headers = {"authorization": f"Bearer {token}"} if token else None
        try:
            stub.call("ModelInfer", asked, headers=headers)
        except grpc.RpcError as error:
            return error.code().name, int(dict(error.trailing_metadata()).get("retry-after", 0))
        return "OK", 0

    assert ask("") == ("UNAUTHENTICATED", 0)
    until(lambda: ask("reader") == ("PERMISSION_DENIED", 0))  # the last key to be read
    assert [ask("slow")[0] for _ in range(3)] == ["OK", "OK", "RESOURCE_EXHAUSTED"]
    over_http = worker.infer("m", ROW.tolist(), headers={"authorization": "Bearer slow"})
    assert over_http.status_code == 429  # one allowance, whichever way requests come
    assert 90 <= ask("slow")[1] <= 100
    assert [ask("small", rows)[0] for rows in (1, 2, 1, 1)] == ["OK", "RESOURCE_EXHAUSTED", "OK", "RESOURCE_EXHAUSTED"]
    assert 0 < ask("small")[1] <= 86_400
    assert len(worker.predictions()) == 4


def test_grpc_request_that_would_wait_too_long_is_refused_before_it_is_read(start, models, until):
    """A version that is behind refuses at once and says when to come again, whatever the tensors, unless it may go first."""
    worker, stub = start(inline_us_max=0.0, batch_rows_max=1, queue_wait_share=0.001)
    worker.register("m", "1", models.loop(), cost_us=10, champion=True)
    worker.until_served(until)
    is_over = threading.Event()

    def load() -> set[tuple[str, str]]:
        seen = set()
        while not is_over.is_set():
            try:
                stub.call("ModelInfer", stub.request("m", "FP32", np.array([[20]], np.float32)))
            except grpc.RpcError as error:
                seen.add((error.code().name, dict(error.trailing_metadata())["retry-after"]))
        return seen

    wrong = stub.request("m", "FP8", ROW)
    with ThreadPoolExecutor(_CALLERS) as pool:
        callers = [pool.submit(load) for _ in range(_CALLERS)]
        try:
            until(lambda: stub.refused("ModelInfer", wrong)[0] == "RESOURCE_EXHAUSTED")
            wrong.parameters["priority"].int64_param = 1
            assert stub.refused("ModelInfer", wrong)[0] == "INVALID_ARGUMENT"
        finally:
            is_over.set()
    assert set().union(*(caller.result() for caller in callers)) == {("RESOURCE_EXHAUSTED", "1")}
    assert worker.metric("gateway_rejected_requests_total", reason="Overloaded") > 0
