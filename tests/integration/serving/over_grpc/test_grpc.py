"""The protocol over gRPC, spoken to a worker with plain stubs: forms of tensors, errors, deadlines, bounds, the drain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from gateway.core.access import Key, Scope, token_digest
from gateway.core.changes import PutKey
from gateway.core.records import Outcome
from gateway.serving.grpc import inference_pb2 as pb

LIMITS = {"INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64}
LIMITS |= {"UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64}
VALUES = {name: np.array([[np.iinfo(kind).min, 0, np.iinfo(kind).max]], kind) for name, kind in LIMITS.items()}
VALUES |= {
    "BOOL": np.array([[True, False, True]]),
    "FP16": np.array([[-0.0, 6e-8, np.inf]], np.float16),
    "BF16": np.array([[0x8000, 0x0001, 0x7F80, 0x7FC1]], np.uint16),  # as bits
    "FP32": np.array([[-0.0, 1e-45, np.nan, -np.inf]], np.float32),
    "FP64": np.array([[-0.0, 5e-324, np.nan, np.inf]], np.float64),
    "BYTES": np.array([[b"", b"\0", "ä🙂".encode()]], object),
}
KINDS = {name: getattr(TensorProto, name) for name in (*LIMITS, "BOOL")}
KINDS |= {"FP16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}
KINDS |= {"FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE, "BYTES": TensorProto.STRING}


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_grpc_carries_every_datatype_exactly(start, models, until, form):
    """Each datatype goes through an identity and back bit by bit, raw or typed, in the form it came; FP16 and BF16 only raw."""
    worker, stub = start()
    for name, kind in KINDS.items():
        worker.register(name, "1", models.identity(kind), champion=True)
    worker.until_served(until)
    for name, values in VALUES.items():
        asked = stub.request(name, name, values, is_raw=form == "raw" or name in ("FP16", "BF16"))
        answer, _ = stub.call("ModelInfer", asked)
        [output] = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("y", name, list(values.shape))
        assert list(answer.raw_output_contents) == list(asked.raw_input_contents)
        assert output.contents.SerializeToString() == asked.inputs[0].contents.SerializeToString()


def test_grpc_answer_takes_the_form_that_is_asked_for(start, models, until):
    """`binary_data_output` chooses the form of all outputs; an FP16 output makes the whole answer raw."""
    worker, stub = start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    row = np.ones((1, 4), np.float32)
    for is_raw in (True, False):
        asked = stub.request("m", "FP32", row, is_raw=is_raw)
        asked.parameters["binary_data_output"].bool_param = not is_raw
        answer, _ = stub.call("ModelInfer", asked)
        assert len(answer.raw_output_contents) == (not is_raw)
        assert list(answer.outputs[0].contents.fp32_contents) == ([4.0] if is_raw else [])


def test_grpc_size_said_as_over_http_must_be_true(start, models, until):
    """`binary_data_size`, which some clients send over gRPC too, is the size of the raw tensor or an error."""
    worker, stub = start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    for size, is_raw in ((16, True), (15, True), (16, False)):
        asked = stub.request("m", "FP32", np.ones((1, 4), np.float32), is_raw=is_raw)
        asked.inputs[0].parameters["binary_data_size"].int64_param = size
        if (size, is_raw) == (16, True):
            assert len(stub.call("ModelInfer", asked)[0].raw_output_contents) == 1
        else:
            code, details = stub.refused("ModelInfer", asked)
            assert (code, "binary_data_size" in details) == ("INVALID_ARGUMENT", True)


def test_grpc_answer_says_what_ran_and_leaves_the_record_that_http_does(start, models, until):
    """Key, trace and tensors reach the record as they do over HTTP; id, version and variant come back in message and metadata."""
    worker, stub = start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("m", "2", models.linear(bias=1.0))
    variants = [{"name": "one", "version": "1", "weight": 5000}, {"name": "two", "version": "2", "weight": 5000}]
    worker.route("r", {"model": "m", "variants": variants, "fallback": "one"})
    worker.until_served(until)
    headers = {"gateway-assignment-key": "ann", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    row = np.array([[1, 2, 3, 4]], np.float32)
    over_http = worker.infer("r", row.tolist(), headers=headers)
    answer, metadata = stub.call("ModelInfer", stub.request("r", "FP32", row, is_raw=True, id="7"), headers=headers)
    first, second = worker.predictions()
    assert replace(first, prediction_id="", time_s=0, latency_us=0, attempts=(), inputs=(), outputs=()) == replace(
        second, prediction_id="", time_s=0, latency_us=0, attempts=(), inputs=(), outputs=()
    )
    assert first.is_keyed
    assert first.trace_id == "ab" * 16
    for side in ("inputs", "outputs"):
        [one], [other] = getattr(first, side), getattr(second, side)
        assert (one.name, one.datatype, one.data.tobytes()) == (other.name, other.datatype, other.data.tobytes())
    assert (answer.model_name, answer.model_version, answer.id) == ("r", over_http.json()["model_version"], "7")
    assert answer.parameters["prediction_id"].string_param == metadata["gateway-prediction-id"] == second.prediction_id
    assert answer.parameters["variant"].string_param == metadata["gateway-variant"] == over_http.headers["gateway-variant"]
    assert metadata["gateway-version"] == answer.model_version
    pinned, _ = stub.call("ModelInfer", stub.request("r", "FP32", row, is_raw=False, version="2"))
    assert (pinned.model_version, pinned.outputs[0].contents.fp32_contents[0]) == ("2", 11.0)


def test_grpc_refuses_what_does_not_fit(start, models, until):
    """Each mistake is told with its code; the connection goes on, and nothing leaves a record."""
    worker, stub = start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("i", "1", models.identity(TensorProto.INT8), champion=True)
    worker.until_served(until)
    row = np.ones((1, 4), np.float32)

    def changed(change: Callable[[pb.ModelInferRequest], object], *, is_raw: bool = True) -> pb.ModelInferRequest:
        asked = stub.request("m", "FP32", row, is_raw=is_raw)
        change(asked)
        return asked

    invalid = {
        "not both": changed(lambda asked: asked.inputs[0].contents.fp32_contents.append(1)),
        "expected one for each": changed(lambda asked: asked.raw_input_contents.append(b"")),
        "byte size mismatch": changed(lambda asked: asked.raw_input_contents.__setitem__(0, b"1234")),
        "additional bytes|mismatch": changed(lambda asked: asked.raw_input_contents.__setitem__(0, b"1" * 17)),
        "needs 4 values, got 5": changed(lambda asked: asked.inputs[0].contents.fp32_contents.append(1), is_raw=False),
        "is in fp32_contents": changed(lambda asked: asked.inputs[0].contents.int_contents.append(1), is_raw=False),
        "given twice": changed(lambda asked: asked.inputs.add().CopyFrom(asked.inputs[0]), is_raw=False),
        "integers from 0": changed(lambda asked: asked.inputs[0].shape.append(-1)),
        "not one of the protocol's": changed(lambda asked: setattr(asked.inputs[0], "datatype", "FP8")),
        "no typed contents": changed(lambda asked: setattr(asked.inputs[0], "datatype", "FP16"), is_raw=False),
        "inputs: expected": changed(lambda asked: asked.ClearField("inputs")),
        "is missing|unknown|not one of": changed(lambda asked: setattr(asked.inputs[0], "name", "z")),
        "expected a string, a number": changed(lambda asked: asked.parameters["k"].SetInParent()),
        "output 'z'": changed(lambda asked: asked.outputs.add(name="z")),
        "asked for twice": changed(lambda asked: [asked.outputs.add(name="y") for _ in "ab"]),
        "INT8 takes integers": stub.request("i", "INT8", np.array([[300]]), is_raw=False),
        "cannot be read": b"\xff\xff\xff",
        "expected microseconds": changed(lambda asked: setattr(asked.parameters["timeout"], "string_param", "x")),
    }
    for told, asked in invalid.items():
        code, details = stub.refused("ModelInfer", asked)
        assert code == "INVALID_ARGUMENT", (told, code, details)
        assert any(part in details for part in told.split("|")), (told, details)
    others = {
        "NOT_FOUND": changed(lambda asked: setattr(asked, "model_name", "none")),
        "UNIMPLEMENTED": changed(lambda asked: setattr(asked.parameters["sequence_id"], "int64_param", 1)),
    }
    for expected, asked in others.items():
        assert stub.refused("ModelInfer", asked)[0] == expected
    assert stub.refused("ModelInfer", stub.request("m", "FP32", row, is_raw=True, version="9"))[0] == "NOT_FOUND"
    assert worker.predictions() == []
    assert stub.call("ModelInfer", stub.request("m", "FP32", row, is_raw=True))[0].model_version == "1"
    assert stub.refused("TraceSetting", b"")[0] == "UNIMPLEMENTED"


def test_grpc_loads_for_who_may(start, models, until):
    """Loading and unloading need the scope, as over HTTP; who has none, or brings files, is told so."""
    worker, stub = start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("m", "2", models.linear())
    for scope in (Scope.OPERATE, Scope.READ):
        worker.commit(PutKey(Key(scope.value, scope.value, token_digest(scope.value), frozenset({scope}), 0.0)))
    worker.until_served(until)
    operator = {"authorization": "Bearer operate"}
    load = pb.RepositoryModelLoadRequest(model_name="m")
    load.parameters["version"].string_param = "2"
    until(lambda: stub.call("RepositoryModelLoad", load, headers=operator))

    def states() -> dict[str, str]:
        index, _ = stub.call("RepositoryIndex", pb.RepositoryIndexRequest())
        return {row.version: row.state for row in index.models}

    assert states() == {"1": "READY", "2": "READY"}
    unload = pb.RepositoryModelUnloadRequest(model_name="m")
    assert stub.refused("RepositoryModelUnload", unload, headers=operator)[0] == "FAILED_PRECONDITION"
    unload.parameters["version"].string_param = "2"
    stub.call("RepositoryModelUnload", unload, headers=operator)
    until(lambda: states() == {"1": "READY", "2": "UNAVAILABLE"})
    ready, _ = stub.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
    assert [row.version for row in ready.models] == ["1"]
    assert stub.refused("RepositoryModelLoad", load)[0] == "UNAUTHENTICATED"
    assert stub.refused("RepositoryModelLoad", load, headers={"authorization": "Bearer read"})[0] == "PERMISSION_DENIED"
    load.parameters["file:1/model.onnx"].bytes_param = b"x"
    assert stub.refused("RepositoryModelLoad", load, headers=operator)[0] == "UNIMPLEMENTED"
    load = pb.RepositoryModelLoadRequest(model_name="m", repository_name="other")
    assert stub.refused("RepositoryModelLoad", load, headers=operator)[0] == "UNIMPLEMENTED"


def test_grpc_deadline_is_the_callers_own_and_counts_against_no_version(start, models, until):
    """A run that outlasts the caller's deadline is recorded as abandoned; one that its caller cancels goes on to its record."""
    worker, stub = start(inline_us_max=0.0)
    worker.register("slow", "1", models.loop(), champion=True, cost_us=1e6)
    worker.until_served(until)
    asked = stub.request("slow", "FP32", np.array([[1000.0]], np.float32), is_raw=True)
    assert stub.refused("ModelInfer", asked, timeout=0.2)[0] == "DEADLINE_EXCEEDED"
    [record] = until(worker.predictions, within_s=10)
    assert record.outcome is Outcome.ABANDONED
    assert worker.metric("gateway_predictions_total", outcome="abandoned") == 1
    until(worker.in_flight.is_empty)
    brief = stub.request("slow", "FP32", np.array([[200.0]], np.float32), is_raw=True)
    given_up = stub.method("ModelInfer").future(brief)
    until(lambda: not worker.in_flight.is_empty())
    given_up.cancel()
    until(lambda: len(worker.predictions()) == 2, within_s=10)
    assert worker.predictions()[1].outcome is Outcome.OK


def test_grpc_own_fault_of_a_version_is_internal(start, models, until):
    """A version that fails is told as INTERNAL with the prediction's id, which has a record."""
    worker, stub = start()
    worker.register("table", "1", models.lookup(), champion=True)
    worker.until_served(until)
    with pytest.raises(grpc.RpcError) as failed:
        stub.call("ModelInfer", stub.request("table", "INT64", np.array([[99]]), is_raw=True))
    assert failed.value.code().name == "INTERNAL"
    assert "failed" in failed.value.details()
    [record] = worker.predictions()
    assert dict(failed.value.trailing_metadata())["gateway-prediction-id"] == record.prediction_id


def test_grpc_bounds_messages(start, models, until):
    """A message over `serving.body_bytes_max`, or one that expands to more, is refused, and the next one is answered."""
    worker, stub = start(body_bytes_max=100_000)
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    large = stub.request("m", "FP32", np.ones((20_000, 4), np.float32), is_raw=True)
    assert stub.refused("ModelInfer", large)[0] == "RESOURCE_EXHAUSTED"
    bomb = stub.request("m", "FP32", np.zeros((5_000_000, 4), np.float32), is_raw=True)
    with pytest.raises(grpc.RpcError) as refused:
        stub.method("ModelInfer")(bomb, timeout=10, compression=grpc.Compression.Gzip)
    assert refused.value.code().name == "RESOURCE_EXHAUSTED"
    fitting = stub.request("m", "FP32", np.ones((1_000, 4), np.float32), is_raw=True)
    assert len(stub.method("ModelInfer")(fitting, compression=grpc.Compression.Gzip).raw_output_contents[0]) == 4_000


def test_grpc_bounds_connections(start):
    """Beyond `serving.connections_max` no further connection is taken, until one closes."""
    _, stub = start(connections_max=1)
    assert stub.call("ServerLive", pb.ServerLiveRequest())[0].live
    other = stub.another()
    try:
        assert other.refused("ServerLive", pb.ServerLiveRequest(), timeout=2)[0] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        stub.channel.close()
        assert other.method("ServerLive")(pb.ServerLiveRequest(), timeout=10, wait_for_ready=True).live
    finally:
        other.channel.close()


def test_grpc_drain_finishes_what_is_in_flight(start, models, until):
    """After the wish to stop a worker is alive and not ready, refuses new calls, and answers and records the one in flight."""
    worker, stub = start(inline_us_max=0.0)
    worker.register("slow", "1", models.loop(), champion=True, cost_us=1e6)
    variants = [{"name": "one", "version": "1", "weight": 10_000}]
    worker.route("r", {"model": "slow", "variants": variants, "fallback": "one", "deadline_ms": 30_000})
    worker.until_served(until)
    assert stub.call("ServerReady", pb.ServerReadyRequest())[0].ready
    asked = stub.request("r", "FP32", np.array([[2000.0]], np.float32), is_raw=True)
    waiting = stub.method("ModelInfer").future(asked, timeout=30)
    until(lambda: not worker.in_flight.is_empty())
    worker.begin_stop()
    until(lambda: not stub.call("ServerReady", pb.ServerReadyRequest())[0].ready)
    assert stub.call("ServerLive", pb.ServerLiveRequest())[0].live
    assert stub.refused("ModelInfer", asked)[0] == "UNAVAILABLE"
    assert not waiting.done()
    assert waiting.result().model_version == "1"
    worker.stop()
    [record] = worker.predictions()
    assert record.outcome is Outcome.OK
