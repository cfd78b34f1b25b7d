"""`ModelStreamInfer`: Triton's own clients' streams against a worker, and what becomes of a stream when somebody leaves."""

from __future__ import annotations

import asyncio
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio

from gateway.core.access import Key, Limits, Scope, token_digest
from gateway.core.changes import PutKey
from gateway.serving.grpc import inference_pb2 as pb
from gateway.settings import PredictionTokens

ROW = np.array([[1, 2, 3, 4]], np.float32)


class Open:
    """A stream of plain stubs whose requests a test sends one by one."""

    def __init__(self, stub, **options: object) -> None:
        self._requests: queue.Queue[object] = queue.Queue()
        kinds = (pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString)
        method = stub.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", *kinds)
        self.answers = method(iter(self._requests.get, None), **{"timeout": 60, **options})

    def send(self, request: pb.ModelInferRequest) -> None:
        """Send a request."""
        self._requests.put(request)

    def ask(self, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        """Send a request and return the next answer."""
        self.send(request)
        return next(self.answers)

    def is_sent(self) -> bool:
        """Return whether the library took all requests."""
        return self._requests.empty()

    def close(self) -> None:
        """Say that there are no more requests."""
        self._requests.put(None)


@pytest.fixture
def served(start, models, until):
    """Return a worker with a model, and a connection."""

    def serve(**serving: object):
        worker, stub = start(**serving)
        worker.register("m", "1", models.linear(), champion=True)
        worker.until_served(until)
        return worker, stub

    return serve


def _asked(module, values: np.ndarray):
    asked = module.InferInput("x", list(values.shape), "FP32")
    asked.set_data_from_numpy(values)
    return [asked]


def test_triton_client_streams(served, free_port, until):
    """Answers come in the order of the requests; a request that is refused is an error of its own, and the stream goes on."""
    worker, _ = served()
    told: list[tuple[object, object]] = []
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{free_port}") as client:
        client.start_stream(lambda result, error: told.append((result, error)))
        for at in range(300):
            client.async_stream_infer("m", _asked(tritonclient.grpc, ROW[:, : 3 if at == 150 else 4] + at), request_id=str(at))
        until(lambda: len(told) == 300, within_s=30)
        client.stop_stream()
    [(_, error)] = told[150:151]
    assert "expected shape" in error.message()
    answers = [result for result, _ in told if result is not None]
    assert [answer.get_response().id for answer in answers] == [str(at) for at in range(300) if at != 150]
    assert [answer.as_numpy("y").item() for answer in answers[:3]] == [10.0, 14.0, 18.0]
    ids = [answer.get_response().parameters["prediction_id"].string_param for answer in answers]
    assert ids == [record.prediction_id for record in worker.predictions()]


def test_triton_client_for_asyncio_streams(served, free_port):
    """The asyncio client's `stream_infer` gets the same answers."""
    served()

    async def ask() -> list[tuple[str, float]]:
        module = tritonclient.grpc.aio

        async def requests():
            for at in range(100):
                yield {"model_name": "m", "inputs": _asked(module, ROW + at), "request_id": str(at)}

        async with module.InferenceServerClient(f"127.0.0.1:{free_port}") as client:
            found = [one async for one in client.stream_infer(requests())]
        assert {error for _, error in found} == {None}
        return [(result.get_response().id, result.as_numpy("y").item()) for result, _ in found]

    assert asyncio.run(ask()) == [(str(at), 10.0 + 4 * at) for at in range(100)]


def test_stream_of_requests_shares_a_run(start, models, until):
    """What one stream sends while a run goes on runs together after it."""
    worker, stub = start(inline_us_max=0.0)
    worker.register("m", "1", models.loop(), cost_us=10, champion=True)
    worker.until_served(until)
    stream = Open(stub)
    stream.send(stub.request("m", "FP32", np.array([[300]], np.float32)))
    until(lambda: not worker.in_flight.is_empty())
    for _ in range(8):
        stream.send(stub.request("m", "FP32", np.array([[0]], np.float32)))
    assert [next(stream.answers).infer_response.model_version for _ in range(9)] == ["1"] * 9
    stream.close()
    assert list(stream.answers) == []
    assert max(record.batch_rows for record in worker.predictions()) > 1


def test_stream_predictions_keep_a_tokens_limits(served, until):
    """A token that the stream was begun with is asked for each request; what is refused says when to come again."""
    worker, stub = served(prediction_tokens=PredictionTokens.REQUIRED)
    key = Key("k", "k", token_digest("k"), frozenset({Scope.PREDICT}), 0.0, limits=Limits(requests_per_s=0.01, burst=2))
    worker.commit(PutKey(key))
    without = Open(stub)
    assert "token" in without.ask(stub.request("m", "FP32", ROW)).error_message
    without.close()
    headers = [("authorization", "Bearer k")]
    stream = Open(stub, metadata=headers)
    until(lambda: not stream.ask(stub.request("m", "FP32", ROW)).error_message)  # the key is known
    assert not stream.ask(stub.request("m", "FP32", ROW)).error_message
    refused = stream.ask(stub.request("m", "FP32", ROW))
    assert "requests a second" in refused.error_message
    assert int(refused.infer_response.parameters["retry-after"].string_param) > 50
    stream.close()


def test_stream_that_its_caller_gave_up_does_not_run(start, models, until):
    """What a cancelled stream left waiting is withdrawn; what ran leaves its record."""
    worker, stub = start(inline_us_max=0.0, batch_rows_max=1)
    worker.register("m", "1", models.loop(), cost_us=10, champion=True)
    worker.until_served(until)
    stream = Open(stub)
    for _ in range(4):
        stream.send(stub.request("m", "FP32", np.array([[300]], np.float32)))
    until(lambda: not worker.in_flight.is_empty() and stream.is_sent())
    assert stub.call("ServerLive", pb.ServerLiveRequest())[0].live  # came after them on their connection
    stream.answers.cancel()
    until(lambda: worker.metric("gateway_rejected_requests_total", reason="CallerLeft") > 0, within_s=30)
    until(worker.in_flight.is_empty, within_s=30)
    assert len(worker.predictions()) < 4


def test_stream_keeps_the_id_of_a_request_that_fails(served):
    """An answer that is an error says whose it is; a message that cannot be read has no id."""
    _, stub = served()
    stream = Open(stub)
    refused = stream.ask(stub.request("m", "FP32", ROW[:, :3], id="seven"))
    assert (bool(refused.error_message), refused.infer_response.id) == (True, "seven")
    unknown = stream.ask(stub.request("nobody", "FP32", ROW, id="eight"))
    assert (bool(unknown.error_message), unknown.infer_response.id) == (True, "eight")
    stream.close()


def test_stream_cut_while_an_answer_is_written_ends_quietly(served, until, caplog):
    """A caller who leaves while an answer waits for room on the connection is no error in the journal."""
    worker, stub = served()
    stream = Open(stub)
    for _ in range(12):
        stream.send(stub.request("m", "FP32", np.resize(ROW, (200_000, 4))))  # 0.8 MB each way back, which nobody reads
    counts: list[int] = []

    def is_stuck() -> bool:
        counts.append(len(worker.predictions()))
        return counts[-1] > 0 and len(counts) > 50 and counts[-50] == counts[-1]

    until(is_stuck, within_s=60)  # after as many as the connection has room for
    stream.answers.cancel()
    stub.channel.close()
    worker.stop()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_stream_ends_with_its_worker_and_owes_nothing(start, models, until):
    """A stop answers what the stream's worker has read and then ends the stream, idle ones at once, with UNAVAILABLE."""
    worker, stub = start(inline_us_max=0.0, drain_s=60.0)
    worker.register("slow", "1", models.loop(), champion=True, cost_us=1e6)
    variants = [{"name": "one", "version": "1", "weight": 10_000}]
    worker.route("r", {"model": "slow", "variants": variants, "fallback": "one", "deadline_ms": 30_000})
    worker.until_served(until)
    idle, busy = Open(stub), Open(stub)
    assert not idle.ask(stub.request("r", "FP32", np.array([[0.0]], np.float32))).error_message
    busy.send(stub.request("r", "FP32", np.array([[700.0]], np.float32)))
    until(lambda: not worker.in_flight.is_empty())
    worker.begin_stop()
    with pytest.raises(grpc.RpcError) as ended:
        next(idle.answers)
    assert (ended.value.code().name, "worker that stops" in ended.value.details()) == ("UNAVAILABLE", True)
    assert not worker.in_flight.is_empty()
    assert next(busy.answers).infer_response.model_version == "1"
    with pytest.raises(grpc.RpcError) as ended:
        next(busy.answers)
    assert ended.value.code().name == "UNAVAILABLE"
    assert len(worker.predictions()) == 2
    for stream in (idle, busy):
        stream.close()
    worker.stop(within_s=30)  # not after the drain's 60 s
