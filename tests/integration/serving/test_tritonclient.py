"""Triton's own Python clients against a worker, over real sockets, as their users call them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from gateway.core.access import Key, Scope, token_digest
from gateway.core.changes import PutKey

HEADERS = {"Authorization": "Bearer token-operator"}
NAME = "départs du jour"  # the client percent-encodes it


@pytest.fixture
def served(worker, models, until):
    """Return a worker with a model of two versions, and the operator's token."""
    worker.register(NAME, "1", models.linear(), champion=True)
    worker.register(NAME, "2", models.linear(bias=1.0))
    worker.commit(PutKey(Key("operator", "operator", token_digest("token-operator"), frozenset({Scope.OPERATE}), 0.0)))
    worker.until_served(until)
    until(lambda: worker.client.post(f"/v2/repository/models/{NAME}/load", headers=HEADERS).status_code == 200)
    return worker


@pytest.fixture
def triton(served):
    """Return the client."""
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        yield client


def tensor(module) -> tuple[list, list]:
    """Return inputs and outputs of a request, both as JSON."""
    asked = module.InferInput("x", [1, 4], "FP32")
    asked.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32), binary_data=False)
    return [asked], [module.InferRequestedOutput("y", binary_data=False)]


def test_triton_client_sees_health_and_metadata(triton):
    """Health, metadata and configuration come as the client reads them, also with query parameters."""
    assert triton.is_server_live(query_params={"a": 1})
    assert triton.is_server_ready()
    assert triton.is_model_ready(NAME)
    assert triton.is_model_ready(NAME, "1")
    assert not triton.is_model_ready(NAME, "2")
    assert not triton.is_model_ready("none")
    assert set(triton.get_server_metadata()["extensions"]) >= {"model_repository", "statistics", "model_configuration"}
    metadata = triton.get_model_metadata(NAME)
    assert (metadata["name"], metadata["versions"]) == (NAME, ["1"])
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    config = triton.get_model_config(NAME, "1")
    assert (config["name"], config["max_batch_size"]) == (NAME, 2**23)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]


def test_triton_client_predicts_in_json(triton):
    """With binary data off a request and its answer are plain JSON; an id comes back."""
    inputs, outputs = tensor(tritonclient.http)
    answer = triton.infer(NAME, inputs, outputs=outputs, request_id="7")
    assert answer.as_numpy("y").tolist() == [[10.0]]
    assert (answer.get_response()["model_version"], answer.get_response()["id"]) == ("1", "7")
    assert triton.infer(NAME, inputs, model_version="2", outputs=outputs).as_numpy("y").tolist() == [[11.0]]
    waiting = triton.async_infer(NAME, inputs, outputs=outputs)
    assert waiting.get_result().as_numpy("y").tolist() == [[10.0]]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_client_predicts_in_its_own_default_form(served, triton, models, until, compression):
    """Binary both ways, as the client does unasked, compressed or not, with and without naming outputs, awaited or not."""
    values = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    served.register("echo", "1", models.identity(TensorProto.FLOAT), champion=True)
    served.until_served(until)
    asked = tritonclient.http.InferInput("x", list(values.shape), "FP32")
    asked.set_data_from_numpy(values)
    packed = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
    for outputs in (None, [tritonclient.http.InferRequestedOutput("y")]):
        answer = triton.infer("echo", [asked], outputs=outputs, **packed)
        assert answer.as_numpy("y").tobytes() == values.tobytes()
        assert answer.get_output("y")["parameters"]["binary_data_size"] == values.nbytes
        waiting = triton.async_infer("echo", [asked], outputs=outputs, **packed)
        assert waiting.get_result().as_numpy("y").tobytes() == values.tobytes()

    async def ask() -> None:
        module = tritonclient.http.aio
        async with module.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
            answer = await client.infer("echo", [asked], **packed)
            assert answer.as_numpy("y").tobytes() == values.tobytes()

    asyncio.run(ask())


def test_triton_client_sends_texts_halves_and_asks_for_classes(served, triton, models, until):
    """BYTES, FP16, BF16 and a classification come as the client reads them."""
    cases = {
        "BYTES": (TensorProto.STRING, np.array([["", "\0", "ä🙂"]], object)),
        "FP16": (TensorProto.FLOAT16, np.array([[1, -0.0, 65504]], np.float16)),
        "BF16": (TensorProto.BFLOAT16, np.array([[1, -0.0, 2.0**100]], np.float32)),
        "BOOL": (TensorProto.BOOL, np.array([[True, False]])),
    }
    for name, (kind, _) in cases.items():
        served.register(name, "1", models.identity(kind), champion=True)
    served.until_served(until)
    for name, (_, values) in cases.items():
        asked = tritonclient.http.InferInput("x", list(values.shape), name)
        asked.set_data_from_numpy(values)
        back = triton.infer(name, [asked]).as_numpy("y")
        texts = [text.encode() for text in values.ravel()] if name == "BYTES" else values.ravel().tolist()
        assert back.ravel().tolist() == texts
    asked = tritonclient.http.InferInput("x", [1, 3], "FP16")
    asked.set_data_from_numpy(np.array([[1, 3, 2]], np.float16))
    outputs = [tritonclient.http.InferRequestedOutput("y", class_count=2)]
    assert triton.infer("FP16", [asked], outputs=outputs).as_numpy("y").tolist() == [[b"3.0:1", b"2.0:2"]]


def test_triton_client_reads_index_and_statistics(triton, until):
    """The index has a row for each version; the statistics count the client's own requests."""
    rows = {row["version"]: row["state"] for row in triton.get_model_repository_index()}
    assert rows == {"1": "READY", "2": "UNAVAILABLE"}
    inputs, outputs = tensor(tritonclient.http)
    for _ in range(3):
        triton.infer(NAME, inputs, outputs=outputs)

    def answered() -> int:
        [found] = triton.get_inference_statistics(NAME)["model_stats"]
        return found["inference_stats"]["success"]["count"]

    until(lambda: answered() == 3)
    assert [each["name"] for each in triton.get_inference_statistics()["model_stats"]] == [NAME]
    [found] = triton.get_inference_statistics(NAME, "2")["model_stats"]
    assert (found["version"], found["inference_count"]) == ("2", 0)


def test_triton_client_loads_and_is_told_why_not(triton):
    """Loading works with a token; what is refused reaches the caller as a message and a status."""
    triton.load_model(NAME, headers=HEADERS)
    for status, told, call in (
        ("401", "token", lambda: triton.load_model(NAME)),
        ("404", "Request for unknown model", lambda: triton.load_model("none", headers=HEADERS)),
        ("501", "not taken over the protocol", lambda: triton.load_model(NAME, headers=HEADERS, config="{}")),
        ("409", "is served", lambda: triton.unload_model(NAME, headers=HEADERS)),
        ("404", "Not Found", triton.get_system_shared_memory_status),
        ("404", "Request for unknown model", lambda: triton.get_model_metadata("none")),
    ):
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert (refused.value.status(), told in refused.value.message()) == (status, True), refused.value


def test_triton_client_for_asyncio_does_the_same(served):
    """The client for asyncio gets the same answers."""

    async def ask() -> None:
        module = tritonclient.http.aio
        async with module.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
            assert await client.is_server_live()
            assert await client.is_model_ready(NAME, "1")
            assert (await client.get_model_config(NAME))["name"] == NAME
            assert len(await client.get_model_repository_index()) == 2
            assert (await client.get_inference_statistics())["model_stats"]
            await client.load_model(NAME, headers=HEADERS)
            with pytest.raises(InferenceServerException):
                await client.unload_model(NAME, headers=HEADERS)
            inputs, outputs = tensor(module)
            answer = await client.infer(NAME, inputs, outputs=outputs)
            assert answer.as_numpy("y").tolist() == [[10.0]]

    asyncio.run(ask())
