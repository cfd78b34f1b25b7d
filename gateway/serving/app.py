"""The table of HTTP paths of a serving worker.

Prediction paths answer an exchange themselves, ahead of a Starlette application that answers the rest: a framework's request and
response objects cost as much as the whole path of a small model. Every failure is `{"error": …}`.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route as Path

from gateway.core.errors import (
    ArtifactCorrupt,
    GatewayError,
    LoadFailed,
    LogFailed,
    LogFull,
    MalformedRequest,
    NotOffered,
    NotReady,
    PayloadTooLarge,
    PortFault,
    UnsupportedEncoding,
)
from gateway.core.models import Version, signature_body
from gateway.metrics import REJECTED, UNEXPECTED_ERRORS, cell
from gateway.ports import Clock, MetricsBank
from gateway.serving.infer import Answer, Call, Inference
from gateway.serving.pinned import PinnedPools
from gateway.serving.recorder import Recorder
from gateway.serving.routing import Router
from gateway.serving.truth import authenticated, record_truth
from gateway.web import ClientGone, Exchange, Handler, asgi, error_body, error_headers, status_of

_log = logging.getLogger(__name__)
_EXTENSIONS: Final = ("parameters",)  # exactly what works
_INFER: Final = re.compile(rb"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_ROWS: Final = re.compile(rb"/v1/models/([^/]+):predict")
_TRUTH: Final = b"/api/v1/ground-truth"
_TARGETS_MAX: Final = 4_096  # parsed prediction paths kept; beyond it parsing starts over
_TARGET_LENGTH_MAX: Final = 512  # of a path that is kept
_TRUTH_BYTES_MAX: Final = 4 * 2**20  # 10,000 records of 400 bytes
_LENGTH_DIGITS_MAX: Final = 18  # of a length in a header; more is no length of anything, and slow to read
_TELL_S: Final = 10.0  # between two lines about failures outside; they come with every request
_JSON: Final = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Target:
    """What a prediction path names."""

    route: str
    version: str
    is_rows: bool


class ServingApp:
    """What one worker answers."""

    def __init__(
        self,
        *,
        inference: Inference,
        router: Router,
        pinned: PinnedPools,
        recorder: Recorder,
        metrics: MetricsBank,
        clock: Clock,
        body_bytes_max: int,
        is_draining: Callable[[], bool],
    ) -> None:
        self._inference = inference
        self._router = router
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._body_bytes_max = body_bytes_max
        self._targets: dict[bytes, Target] = {}
        self._rest = _rest(router, pinned, recorder, is_draining, self._refused)
        self._told_s = -_TELL_S
        self._unexpected = cell(metrics, UNEXPECTED_ERRORS, "request")

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        path = exchange.target.path
        target = self._targets.get(path) or self._parsed(path)
        if target is None and path != _TRUTH:
            await self._rest(exchange)
            return
        try:
            answer = await self._answer(target, exchange)
        except ClientGone:
            return
        except GatewayError as error:
            cell(self._metrics, REJECTED, type(error).__name__).add(1.0)
            answer = self._refused(error)
        except Exception:  # noqa: BLE001 - the request loop; counted
            self._unexpected.add(1.0)
            _log.exception("a request failed unexpectedly", extra={"action": "answer"})
            answer = Answer(500, [], b'{"error":"internal error"}')
        await exchange.answer(answer.status, [_JSON, *answer.headers], answer.body)

    async def _answer(self, target: Target | None, exchange: Exchange) -> Answer:
        if exchange.method != "POST":
            return Answer(405, [(b"allow", b"POST")], b'{"error":"Method Not Allowed"}')
        headers: Mapping[bytes, bytes] = dict(exchange.headers)
        bytes_max = self._body_bytes_max if target is not None else min(self._body_bytes_max, _TRUTH_BYTES_MAX)
        _refuse_by_headers(headers, bytes_max)
        if target is None:
            principal = authenticated(headers.get(b"authorization"), self._router.keys)
            body = await exchange.body(bytes_max)
            return Answer(200, [], await record_truth(body, principal, self._recorder, self._metrics))
        body = await exchange.body(bytes_max)
        if (length := headers.get(b"inference-header-content-length")) is not None:
            _refuse_binary(length, len(body))
        call = Call(target.route, target.version, target.is_rows, headers, body, self._clock.monotonic_s())
        return await self._inference.infer(call)

    def _refused(self, error: GatewayError) -> Answer:
        """Return the answer of an error; what it tells of this machine goes to the operator's log instead."""
        told = _told(error)
        if told is not error and (now_s := self._clock.monotonic_s()) - self._told_s >= _TELL_S:
            self._told_s = now_s
            _log.error("requests are refused", extra={"action": "answer", "reason": str(error)})
        return Answer(status_of(error), error_headers(error), error_body(told))

    def _parsed(self, path: bytes) -> Target | None:
        """Return what a path names, remembered, or None when it is no prediction path."""
        if found := _INFER.fullmatch(path):
            target = Target(_name(found[1]), _name(found[2] or b""), is_rows=False)
        elif found := _ROWS.fullmatch(path):
            target = Target(_name(found[1]), "", is_rows=True)
        else:
            return None
        if len(path) <= _TARGET_LENGTH_MAX:
            if len(self._targets) >= _TARGETS_MAX:
                self._targets.clear()
            self._targets[path] = target
        return target


def _told(error: GatewayError) -> GatewayError:
    """Return an error as callers read it: reasons from outside the program name files, which are no business of theirs."""
    match error:
        case LogFull():
            return LogFull("the prediction log is full")
        case LogFailed():
            return LogFailed("the prediction log cannot be written")
        case PortFault():
            return PortFault("the gateway's storage cannot be read or written")
        case LoadFailed() | ArtifactCorrupt():
            return LoadFailed("the version does not load")
        case _:
            return error


def _name(quoted: bytes) -> str:
    return unquote(quoted.decode("latin-1"), errors="replace")


def _refuse_by_headers(headers: Mapping[bytes, bytes], bytes_max: int) -> None:
    length = headers.get(b"content-length", b"0")
    if len(length) > _LENGTH_DIGITS_MAX:
        raise MalformedRequest(f"Content-Length: expected at most {_LENGTH_DIGITS_MAX} digits")
    if int(length) > bytes_max:
        raise PayloadTooLarge(f"the body is over {bytes_max:,} bytes")
    encoding = headers.get(b"content-encoding")
    if encoding and encoding.lower() != b"identity":
        raise UnsupportedEncoding(f"content encoding {encoding.decode('latin-1')[:40]!r} is not read here")


def _refuse_binary(length: bytes, body_bytes: int) -> None:
    """Refuse a binary body; a header length that is the whole body's is plain JSON."""
    if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX or int(length) > body_bytes:
        raise MalformedRequest("Inference-Header-Content-Length: expected a length within the body")
    if int(length) != body_bytes:
        raise NotOffered("binary tensors are not offered; send JSON")


def _rest(
    router: Router,
    pinned: PinnedPools,
    recorder: Recorder,
    is_draining: Callable[[], bool],
    refused: Callable[[GatewayError], Answer],
) -> Handler:
    """Return what answers for health and metadata."""

    async def live(_: HttpRequest) -> Response:
        return _json(200, {"live": True})

    async def ready(_: HttpRequest) -> Response:
        if is_draining():
            raise NotReady("draining")
        if not router.is_ready:
            raise NotReady("not every model that should serve is loaded")
        if recorder.is_refusing:
            raise NotReady("the prediction log cannot be written")
        return _json(200, {"ready": True})

    async def server(_: HttpRequest) -> Response:
        return _json(200, {"name": "headgate", "version": _program_version(), "extensions": list(_EXTENSIONS)})

    async def model_ready(request: HttpRequest) -> Response:
        name, version = request.path_params["model"], request.path_params.get("version")
        route = router.table.route(name)
        if is_draining():
            raise NotReady("draining")
        if version is None:
            is_ready = route.fallback.pool is not None
        else:
            described = await _version(router, pinned, name, version)
            key = (described.model, described.version)
            is_ready = key in router.table.pools or pinned.warm(*key) is not None
        if not is_ready:
            raise NotReady(f"{name!r} is not loaded")
        return _json(200, {"name": name, "ready": True})

    async def model(request: HttpRequest) -> Response:
        name, version = request.path_params["model"], request.path_params.get("version")
        route = router.table.route(name)
        if version is None:
            described = route.fallback.version
            warm = [known for named, known in router.table.pools if named == route.route.model]
            versions = sorted({*warm, *pinned.versions(route.route.model)})
        else:
            described = await _version(router, pinned, name, version)
            versions = [described.version]
        body = {"name": name, "versions": versions, "platform": f"headgate_{described.runtime.value}"}
        return _json(200, {**body, **signature_body(described.signature), "properties": {"digest": described.digest}})

    def on_gateway_error(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, GatewayError)
        answer = refused(error)
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        return Response(answer.body, answer.status, headers, "application/json")

    paths: list[tuple[str, Callable[[HttpRequest], Awaitable[Response]]]] = [
        ("/v2/health/live", live),
        ("/v2/health/ready", ready),
        ("/v2", server),
        ("/v2/", server),
        ("/v2/models/{model}/ready", model_ready),
        ("/v2/models/{model}/versions/{version}/ready", model_ready),
        ("/v2/models/{model}", model),
        ("/v2/models/{model}/versions/{version}", model),
    ]
    handlers = {GatewayError: on_gateway_error, HTTPException: _on_http_exception, Exception: _on_unexpected}
    app = Starlette(routes=[Path(path, endpoint, methods=["GET"]) for path, endpoint in paths], exception_handlers=handlers)
    app.router.redirect_slashes = False
    return asgi(app)


async def _version(router: Router, pinned: PinnedPools, name: str, version: str) -> Version:
    """Return a version under a route, from the table or the registry."""
    route = router.table.route(name).route
    known = router.table.table.versions.get((route.model, version))
    return known if known is not None else await pinned.version(route.model, version)


def _json(status: int, body: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, dict(headers or {}), "application/json")


def _on_http_exception(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json(error.status_code, {"error": error.detail}, error.headers)


def _on_unexpected(_: HttpRequest, error: Exception) -> Response:
    _log.error("a request failed unexpectedly", extra={"action": "answer"}, exc_info=error)
    return _json(500, {"error": "internal error"})


def _program_version() -> str:
    return importlib.metadata.version("headgate")
