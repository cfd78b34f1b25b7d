"""What a worker answers over gRPC: the same request path and the same descriptions as over HTTP, in the protocol's messages.

Nothing here knows gRPC itself: bytes and headers come in, bytes, metadata and an error of the gateway's own tree go out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from gateway.core.errors import GatewayError, MalformedRequest, NotOffered, NotReady, UnknownRoute, UnknownVersion
from gateway.core.fields import Json
from gateway.metrics.metric import cell
from gateway.metrics.process import UNEXPECTED_ERRORS
from gateway.ports.clock import Clock
from gateway.ports.metrics import MetricsBank
from gateway.serving.answers import failure
from gateway.serving.describe import Asked, Description, Endpoint
from gateway.serving.grpc import inference_pb2 as pb
from gateway.serving.grpc.messages import request_of, response_of
from gateway.serving.infer import Call, Inference
from gateway.serving.limits import Callers
from gateway.serving.refusals import Refusals
from gateway.web import error_headers

_log = logging.getLogger(__name__)
_FALSE: Final = (NotReady, UnknownRoute, UnknownVersion)  # what "is it ready?" answers with no
_WHILE_DRAINING: Final = frozenset({"ServerLive", "ServerReady", "ModelReady"})
Metadata = tuple[tuple[str, str], ...]
_Message = TypeVar("_Message")


@dataclass(slots=True)
class Received:
    """One call as it came, and its caller.

    Attributes:
        headers: The metadata, by lower-case name.
        left_s: Until the caller's deadline; None without one.
        on_gone: What is to be called when the caller gives up; returns whether that ended the call.
        route, version: What a prediction is asked of, once its message is read.
    """

    body: bytes
    headers: Mapping[bytes, bytes]
    left_s: float | None
    on_gone: Callable[[], bool] | None = None
    route: str = ""
    version: str = ""

    def leave(self) -> None:
        """Say that the caller gave up."""
        if self.on_gone is not None:
            self.on_gone()


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: a message, or an error; with either, metadata."""

    body: bytes = b""
    metadata: Metadata = ()
    error: GatewayError | None = None


class GrpcService:
    """The protocol's service on one worker.

    Attributes:
        is_draining: Then only questions of health are answered.
    """

    def __init__(
        self,
        *,
        inference: Inference,
        description: Description,
        callers: Callers | None,
        refusals: Refusals,
        metrics: MetricsBank,
        clock: Clock,
    ) -> None:
        """Take what answers.

        Args:
            callers: Admits those of predictions; None where tokens are not looked at.
        """
        self._inference = inference
        self._callers = callers
        self._description = description
        self._refusals = refusals
        self._metrics = metrics
        self._clock = clock
        self._unexpected = cell(metrics, UNEXPECTED_ERRORS, "request")
        self.is_draining = False
        self.methods: Mapping[str, Callable[[Received], Awaitable[Reply]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._repository_load,
            "RepositoryModelUnload": self._repository_unload,
        }

    async def reply(self, method: str, received: Received) -> Reply:
        """Answer one call; never raises."""
        try:
            self._refuse_while_draining(method)
            return await self.methods[method](received)
        except GatewayError as error:
            self._refusals.count(error, received.route, received.version)
            return Reply(metadata=_metadata(error_headers(error)), error=self._refusals.told(error))
        except Exception:  # noqa: BLE001 - the request loop; counted
            self._unexpected.add(1.0)
            _log.exception("a request failed unexpectedly", extra={"action": "answer"})
            return Reply(error=GatewayError("internal error"))

    async def streamed(self, received: Received) -> bytes:
        """Answer one prediction of a stream, which has no metadata of its own; never raises."""
        reply = await self.reply("ModelInfer", received)
        answer = pb.ModelStreamInferResponse()
        if reply.error is None:
            answer.infer_response.MergeFromString(reply.body)
            return bytes(answer.SerializeToString())
        answer.error_message = str(reply.error)
        answer.infer_response.id = _id(received.body)
        for name, value in reply.metadata:
            answer.infer_response.parameters[name].string_param = value
        return bytes(answer.SerializeToString())

    def _refuse_while_draining(self, method: str) -> None:
        if self.is_draining and method not in _WHILE_DRAINING:
            raise NotReady("draining")

    async def _model_infer(self, received: Received) -> Reply:
        received_s, headers, body = self._clock.monotonic_s(), received.headers, received.body
        allowance = self._callers.admitted(headers.get(b"authorization")) if self._callers is not None else None
        message = _read(pb.ModelInferRequest.FromString, body)
        name, version = received.route, received.version = message.model_name, message.model_version
        call = Call(name, version, False, headers, body, received_s, caller=received, allowance=allowance)
        if self._inference.sheds_until_s:
            self._inference.refuse_early(call)
        request = request_of(message, received.left_s)
        record, variant, ran = await self._inference.infer(call, request)
        metadata = _metadata([(b"gateway-prediction-id", record.prediction_id.encode()), *variant.headers])
        if ran.fault is not None:
            return Reply(metadata=metadata, error=failure(record, variant, ran.fault))
        return Reply(response_of(request, record, variant.version), metadata)

    async def _server_live(self, received: Received) -> Reply:
        _read(pb.ServerLiveRequest.FromString, received.body)
        return _reply(pb.ServerLiveResponse(live=True))

    async def _server_ready(self, received: Received) -> Reply:
        _read(pb.ServerReadyRequest.FromString, received.body)
        return _reply(pb.ServerReadyResponse(ready=await _is_true(self._description.ready, _asked(received))))

    async def _model_ready(self, received: Received) -> Reply:
        message = _read(pb.ModelReadyRequest.FromString, received.body)
        asked = _asked(received, message.name, message.version)
        return _reply(pb.ModelReadyResponse(ready=await _is_true(self._description.model_ready, asked)))

    async def _server_metadata(self, received: Received) -> Reply:
        _read(pb.ServerMetadataRequest.FromString, received.body)
        return _reply(ParseDict(await self._description.server(_asked(received)), pb.ServerMetadataResponse()))

    async def _model_metadata(self, received: Received) -> Reply:
        message = _read(pb.ModelMetadataRequest.FromString, received.body)
        content = await self._description.model(_asked(received, message.name, message.version))
        return _reply(
            ParseDict(content, pb.ModelMetadataResponse(), ignore_unknown_fields=True)
        )  # `properties`, which only HTTP has

    async def _model_config(self, received: Received) -> Reply:
        message = _read(pb.ModelConfigRequest.FromString, received.body)
        content = await self._description.config(_asked(received, message.name, message.version))
        return _reply(ParseDict({"config": content}, pb.ModelConfigResponse()))

    async def _model_statistics(self, received: Received) -> Reply:
        message = _read(pb.ModelStatisticsRequest.FromString, received.body)
        endpoint = self._description.stats if message.name else self._description.all_stats
        content = await endpoint(_asked(received, message.name, message.version))
        return _reply(ParseDict(content, pb.ModelStatisticsResponse(), ignore_unknown_fields=True))  # what is always empty

    async def _repository_index(self, received: Received) -> Reply:
        message = _read(pb.RepositoryIndexRequest.FromString, received.body)
        _refuse_repository(message.repository_name)
        rows = await self._description.index(_asked(received, body={"ready": message.ready}))
        return _reply(ParseDict({"models": rows}, pb.RepositoryIndexResponse()))

    async def _repository_load(self, received: Received) -> Reply:
        await self._description.load(_moved(_read(pb.RepositoryModelLoadRequest.FromString, received.body), received))
        return _reply(pb.RepositoryModelLoadResponse())

    async def _repository_unload(self, received: Received) -> Reply:
        await self._description.unload(_moved(_read(pb.RepositoryModelUnloadRequest.FromString, received.body), received))
        return _reply(pb.RepositoryModelUnloadResponse())


def _read(from_string: Callable[[bytes], _Message], body: bytes) -> _Message:
    try:
        return from_string(body)
    except DecodeError as error:
        raise MalformedRequest(f"the message cannot be read: {error}") from None


def _id(body: bytes) -> str:
    """Return the id that a request's caller gave it, by which the answer is known; empty where there is none to be read."""
    try:
        return str(pb.ModelInferRequest.FromString(body).id)
    except DecodeError:
        return ""


def _metadata(headers: Iterable[tuple[bytes, bytes]]) -> Metadata:
    return tuple((name.decode(), value.decode("latin-1")) for name, value in headers)


def _reply(message: Any) -> Reply:
    return Reply(message.SerializeToString())


def _asked(received: Received, name: str = "", version: str = "", *, body: Json | None = None) -> Asked:
    async def read() -> Json:
        return body or {}

    return Asked(name, version, received.headers, read)


def _moved(message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest, received: Received) -> Asked:
    """Return what is to be loaded or unloaded."""
    _refuse_repository(message.repository_name)
    choices = {key: (each, each.WhichOneof("parameter_choice")) for key, each in message.parameters.items()}
    parameters = {key: getattr(each, choice) if choice else None for key, (each, choice) in choices.items()}
    return _asked(received, message.model_name, body={"parameters": parameters})


def _refuse_repository(name: str) -> None:
    if name:
        raise NotOffered("repository_name: there is one repository, and it has no name")


async def _is_true(endpoint: Endpoint, asked: Asked) -> bool:
    try:
        await endpoint(asked)
    except _FALSE:
        return False
    return True
