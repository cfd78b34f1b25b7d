"""Triton's own Python clients for gRPC against a worker, over real sockets, as their users call them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from gateway.core.access import Key, Scope, token_digest
from gateway.core.changes import PutKey

HEADERS = {"authorization": "Bearer token-operator"}
NAME = "départs du jour"


@pytest.fixture
def served(make_worker, free_port, models, until):
    """Return a worker with a model of two versions, and the operator's token."""
    worker = make_worker(grpc_port=free_port).start()
    worker.register(NAME, "1", models.linear(), champion=True)
    worker.register(NAME, "2", models.linear(bias=1.0))
    worker.commit(PutKey(Key("operator", "operator", token_digest("token-operator"), frozenset({Scope.OPERATE}), 0.0)))
    worker.until_served(until)
    until(lambda: worker.client.post(f"/v2/repository/models/{NAME}/load", headers=HEADERS).status_code == 200)
    return worker


@pytest.fixture
def triton(served, free_port):
    """Return the client."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{free_port}", channel_args=options) as client:
        yield client


def tensor(module, values: np.ndarray, datatype: str):
    """Return the input `x`."""
    asked = module.InferInput("x", list(values.shape), datatype)
    asked.set_data_from_numpy(values)
    return asked


ROW = np.array([[1, 2, 3, 4]], np.float32)


def test_triton_grpc_client_sees_health_and_metadata(triton):
    """Health, metadata and configuration come as the client reads them, the same as over HTTP."""
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(NAME)
    assert triton.is_model_ready(NAME, "1")
    assert not triton.is_model_ready(NAME, "2")
    assert not triton.is_model_ready("none")
    assert "model_configuration" in triton.get_server_metadata().extensions
    metadata = triton.get_model_metadata(NAME, as_json=True)
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == (NAME, ["1"], "headgate_onnx")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
    config = triton.get_model_config(NAME, "1", as_json=True)["config"]
    assert (config["name"], config["max_batch_size"], config["backend"]) == (NAME, 2**23, "onnx")
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["4"]}]
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert config["parameters"]["version"] == {"string_value": "1"}


def test_triton_grpc_client_predicts(triton, until):
    """An answer comes with what it was asked for: id, version, outputs by name; awaited or not."""
    answer = triton.infer(NAME, [tensor(tritonclient.grpc, ROW, "FP32")], request_id="7", client_timeout=10)
    assert answer.as_numpy("y").tolist() == [[10.0]]
    assert (answer.get_response().model_version, answer.get_response().id) == ("1", "7")
    wanted = [tritonclient.grpc.InferRequestedOutput("y")]
    pinned = triton.infer(NAME, [tensor(tritonclient.grpc, ROW, "FP32")], model_version="2", outputs=wanted, timeout=1_000_000)
    assert pinned.as_numpy("y").tolist() == [[11.0]]
    told: list[tuple[object, object]] = []
    triton.async_infer(NAME, [tensor(tritonclient.grpc, ROW, "FP32")], lambda result, error: told.append((result, error)))
    [(result, error)] = until(lambda: told)
    assert (result.as_numpy("y").tolist(), error) == ([[10.0]], None)


def test_triton_grpc_client_sends_texts_halves_and_asks_for_classes(served, triton, models, until):
    """BYTES, FP16, BF16, compressed floats and a classification come as the client reads them."""
    cases = {
        "BYTES": (TensorProto.STRING, np.array([["", "ä🙂"]], object)),
        "FP16": (TensorProto.FLOAT16, np.array([[1, -0.0, 65504]], np.float16)),
        "BF16": (TensorProto.BFLOAT16, np.array([[1, -0.0, 2.0**100]], np.float32)),
        "FP32": (TensorProto.FLOAT, np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)),
    }
    for name, (kind, _) in cases.items():
        served.register(name, "1", models.identity(kind), champion=True)
    served.until_served(until)
    for name, (_, values) in cases.items():
        back = triton.infer(name, [tensor(tritonclient.grpc, values, name)], compression_algorithm="gzip").as_numpy("y")
        expected = [text.encode() for text in values.ravel()] if name == "BYTES" else values.ravel().tolist()
        assert back.ravel().tolist() == expected
    outputs = [tritonclient.grpc.InferRequestedOutput("y", class_count=2)]
    asked = tensor(tritonclient.grpc, np.array([[1, 3, 2]], np.float16), "FP16")
    assert triton.infer("FP16", [asked], outputs=outputs).as_numpy("y").tolist() == [[b"3.0:1", b"2.0:2"]]


def test_triton_grpc_client_reads_index_and_statistics(triton, until):
    """The index has a row for each version; the statistics count the client's own requests."""
    rows = {row.version: row.state for row in triton.get_model_repository_index().models}
    assert rows == {"1": "READY", "2": "UNAVAILABLE"}
    for _ in range(3):
        triton.infer(NAME, [tensor(tritonclient.grpc, ROW, "FP32")])

    def answered() -> int:
        [found] = triton.get_inference_statistics(NAME).model_stats
        return found.inference_stats.success.count

    until(lambda: answered() == 3)
    assert [each.name for each in triton.get_inference_statistics().model_stats] == [NAME]


def test_triton_grpc_client_loads_and_is_told_why_not(triton):
    """Loading works with a token; what is refused reaches the caller as a message and a code."""
    triton.load_model(NAME, headers=HEADERS)
    for code, told, call in (
        ("UNAUTHENTICATED", "token", lambda: triton.load_model(NAME)),
        ("NOT_FOUND", "Request for unknown model", lambda: triton.load_model("none", headers=HEADERS)),
        ("UNIMPLEMENTED", "not taken over the protocol", lambda: triton.load_model(NAME, headers=HEADERS, config="{}")),
        ("FAILED_PRECONDITION", "is served", lambda: triton.unload_model(NAME, headers=HEADERS)),
        ("UNIMPLEMENTED", "", triton.get_system_shared_memory_status),
        ("NOT_FOUND", "Request for unknown model", lambda: triton.get_model_metadata("none")),
        ("INVALID_ARGUMENT", "expected shape", lambda: triton.infer(NAME, [tensor(tritonclient.grpc, ROW[:, :3], "FP32")])),
    ):
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert (refused.value.status(), told in refused.value.message()) == (f"StatusCode.{code}", True), refused.value


def test_triton_grpc_client_for_asyncio_does_the_same(served, free_port):
    """The client for asyncio gets the same answers, many at once."""

    async def ask() -> None:
        module = tritonclient.grpc.aio
        async with module.InferenceServerClient(f"127.0.0.1:{free_port}") as client:
            assert await client.is_server_live()
            assert await client.is_model_ready(NAME, "1")
            inputs = [tensor(module, ROW, "FP32")]
            answers = await asyncio.gather(*[client.infer(NAME, inputs, request_id=str(at)) for at in range(50)])
            assert {answer.as_numpy("y").item() for answer in answers} == {10.0}
            assert [answer.get_response().id for answer in answers] == [str(at) for at in range(50)]

    asyncio.run(ask())
    assert len(served.predictions()) == 50
