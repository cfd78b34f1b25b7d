"""An expensive version with more to do than it can: who is refused, who left, and who may ask at all."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import orjson
import pytest
from onnx import TensorProto, helper

from gateway.core.access import Key, Limits, Scope, token_digest
from gateway.core.changes import PutKey
from gateway.settings import PredictionTokens

SLOW = 400  # thousand turns of the loop model: some 120 ms
QUICK = [[0]]
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
WIDTH = 1_500


@pytest.fixture
def busy(make_worker, models, until):
    """Return a worker whose only version is in the middle of a long run."""
    worker = make_worker(inline_us_max=0.0, batch_rows_max=1).start()
    worker.register("m", "1", models.loop(), cost_us=10, champion=True)
    worker.until_served(until)
    running = threading.Thread(target=lambda: worker.infer("m", [[SLOW]]))
    running.start()
    until(lambda: not worker.in_flight.is_empty())
    yield worker
    running.join()


def _close(connection: socket.socket) -> None:
    connection.close()


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _waiting(worker, receive, value: float = 1, **parameters: object) -> socket.socket:
    """Send a request that waits for the run under way; return its connection."""
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}
    body = orjson.dumps({"inputs": [tensor], "parameters": parameters})
    connection = socket.create_connection(("127.0.0.1", worker.port), 5)
    connection.sendall(LIVE)
    receive(connection)
    connection.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert worker.client.get("/v2/health/live").status_code == 200  # came after it, so that it waits by now
    return connection


def test_request_with_priority_goes_before_those_that_wait(busy, receive):
    """The protocol's parameter `priority`: 1 goes first, then 2, and what has none last, whenever they came."""
    asked = [_waiting(busy, receive, value, **more) for value, more in ((2, {}), (3, {"priority": 2}), (4, {"priority": 1}))]
    for connection in asked:
        with connection:
            assert receive(connection).startswith(b"HTTP/1.1 200")
    assert [record.inputs[0].data.item() for record in busy.predictions()] == [SLOW, 4, 3, 2]


@pytest.mark.parametrize("leave", [_close, _reset])
def test_request_whose_caller_left_does_not_run(busy, until, receive, leave: Callable[[socket.socket], None]):
    """A caller that closes its connection while its request waits is not served; the one behind it is."""
    connection = _waiting(busy, receive)
    leave(connection)
    until(lambda: busy.metric("gateway_rejected_requests_total", reason="CallerLeft") == 1)
    assert busy.infer("m", QUICK).status_code == 200
    assert len(busy.predictions()) == 2


def test_tokens_are_not_looked_at_unless_told(worker, models, until):
    """By default a prediction needs no token, and a wrong one harms nobody."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    assert worker.infer("m", [[1, 2, 3, 4]], headers={"Authorization": "Bearer wrong"}).status_code == 200


def test_predictions_ask_for_a_token_and_keep_its_limits(make_worker, models, until):
    """401 without a token, 403 without the scope, 429 with Retry-After over the rate and over the rows of a day."""
    worker = make_worker(prediction_tokens=PredictionTokens.REQUIRED).start()
    worker.register("m", "1", models.linear(), champion=True)
    keys = {
        "slow": (Scope.PREDICT, Limits(requests_per_s=0.01, burst=2)),
        "small": (Scope.PREDICT, Limits(rows_per_day=2)),
        "reader": (Scope.READ, Limits()),
    }
    for name, (scope, limits) in keys.items():
        worker.commit(PutKey(replace(Key(name, name, token_digest(name), frozenset({scope}), 0.0), limits=limits)))
    worker.until_served(until)

    def ask(token: str, rows: int = 1):
        headers = {"Authorization": f"Bearer {token}"} if token else None
        return worker.infer("m", [[1, 2, 3, 4]] * rows, headers=headers)

    assert ask("").status_code == 401
    until(lambda: ask("reader").status_code == 403)  # the last key to be read
    assert [ask("slow").status_code for _ in range(3)] == [200, 200, 429]
    assert 90 <= int(ask("slow").headers["retry-after"]) <= 100
    assert [ask("small", rows).status_code for rows in (1, 2, 1, 1)] == [200, 429, 200, 429]
    assert 0 < int(ask("small").headers["retry-after"]) <= 86_400
    assert len(worker.predictions()) == 4


def test_request_that_would_wait_too_long_is_refused_before_it_is_read(make_worker, models, until):
    """A version that is behind refuses at once with 503 and Retry-After, whatever the body holds, unless it may go first."""
    random = np.random.default_rng(1)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    sides = [("x", TensorProto.FLOAT, ["n", 4])], [("y", TensorProto.FLOAT, ["n", WIDTH])]
    constants = {
        "a": random.normal(size=(4, WIDTH)).astype(np.float32),
        "b": random.normal(size=(WIDTH, WIDTH)).astype(np.float32),
    }
    worker = make_worker(inline_us_max=0.0, batch_rows_max=1, queue_wait_share=0.001).start()
    worker.register("m", "1", models.graph(nodes, *sides, constants), champion=True)
    worker.until_served(until)
    is_over = threading.Event()

    def load() -> set[tuple[int, str | None]]:
        seen = set()
        with httpx.Client(base_url=worker.url, timeout=30) as client:
            while not is_over.is_set():
                answer = client.post("/v1/models/m:predict", json={"instances": [[1, 2, 3, 4]]})
                seen.add((answer.status_code, answer.headers.get("retry-after")))
        return seen

    with ThreadPoolExecutor(16) as pool:
        callers = [pool.submit(load) for _ in range(16)]
        try:
            until(lambda: worker.client.post("/v1/models/m:predict", content=b"nothing").status_code == 503)
            for read in (b'"priority"', b'{"parameters":{"\\u0070riority":1}}'):  # the same name, escaped
                assert worker.client.post("/v1/models/m:predict", content=read).status_code == 400
            until(lambda: worker.infer("m", [[1, 2, 3, 4]], id="priority").status_code == 503)  # a value gives none
        finally:
            is_over.set()
    assert set().union(*(caller.result() for caller in callers)) == {(200, None), (503, "1")}
    assert worker.metric("gateway_rejected_requests_total", reason="Overloaded") > 0
