"""A connection to a worker's gRPC port with plain stubs, which send what a client's library would not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from gateway.serving.grpc import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
FIELDS = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}
FIELDS |= {"INT8": "int", "INT16": "int", "INT32": "int", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint"}


class Stub:
    """The service's methods on one connection."""

    def __init__(self, address: str) -> None:
        self._address = address
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
        self.channel = grpc.insecure_channel(address, options)

    def another(self) -> Stub:
        """Return another connection to the same port."""
        return Stub(self._address)

    def call(self, method: str, request: object, *, timeout: float | None = 10.0, headers: dict[str, str] | None = None):
        """Return the answer and its trailing metadata."""
        sent = self.method(method).with_call(request, timeout=timeout, metadata=list((headers or {}).items()))
        return sent[0], dict(sent[1].trailing_metadata())

    def method(self, name: str) -> Callable[..., Any]:
        """Return one method."""
        kind = getattr(pb, name + "Response", None)
        path = f"/{SERVICE}/{name}"
        return self.channel.unary_unary(path, _serialized, None if kind is None else kind.FromString)

    def failure(self, method: str, request: object, **options: Any) -> Any:
        """Return how a call fails."""
        with pytest.raises(grpc.RpcError) as error:
            self.call(method, request, **options)
        return error.value

    def refused(self, method: str, request: object, **options: Any) -> tuple[str, str]:
        """Return the code and the details of a failing call."""
        error = self.failure(method, request, **options)
        return error.code().name, error.details()

    @staticmethod
    def request(name: str, datatype: str, values: np.ndarray, *, is_raw: bool = True, version: str = "", **more: object):
        """Return a request of one tensor `x`."""
        asked = pb.ModelInferRequest(model_name=name, model_version=version, **more)
        tensor = asked.inputs.add(name="x", datatype=datatype, shape=values.shape)
        flat = values.ravel().tolist()
        if not is_raw:
            getattr(tensor.contents, FIELDS[datatype] + "_contents").extend(flat)
        elif datatype == "BYTES":
            asked.raw_input_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in flat))
        else:
            asked.raw_input_contents.append(values.tobytes())
        return asked


def _serialized(request: object) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


@pytest.fixture
def start(make_worker, free_port) -> Iterator[Callable[..., tuple[Any, Stub]]]:
    """Start a worker that listens for gRPC too; return it and a connection."""
    stubs: list[Stub] = []

    def started(**serving: object):
        worker = make_worker(grpc_port=free_port, **serving).start()
        stubs.append(Stub(f"127.0.0.1:{free_port}"))
        grpc.channel_ready_future(stubs[0].channel).result(10)
        return worker, stubs[0]

    yield started
    for stub in stubs:
        stub.channel.close()
