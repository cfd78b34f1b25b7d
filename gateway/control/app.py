"""The admin API over HTTP: authenticate, read what the operation takes, perform it in a thread, answer JSON.

Who calls is settled before the first byte of a body is asked for. Everything that is refused is an `{"error": …}` with a status
from the one table in `gateway/web/__init__.py`; what the program has no name for is a 500, counted and written to the journal.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from typing import Final

import anyio
import anyio.to_thread
import orjson
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.control.auth import principal_of
from gateway.control.calls import (
    Answer,
    Call,
    Control,
    Lines,
    Operation,
    Reply,
    Takes,
    TemporaryFile,
    Text,
    query_of,
    revision_of,
)
from gateway.control.openapi import document
from gateway.control.reads import Reads, asked_with, seen_as
from gateway.control.status.site import LED_ON, Page, Site
from gateway.control.surface import OPERATIONS
from gateway.control.upload import Upload, receive_upload
from gateway.core.access import Principal
from gateway.core.errors import BodyStalled, GatewayError, MalformedRequest, NotReady
from gateway.web import ClientGone, Receive, error_body, error_headers, read_body, status_of

QUICK_THREADS: Final = 24  # at once; each call is a few reads and a commit
WAITING_THREADS: Final = 32  # at once; route changes and registrations, which wait for workers or validation
UPLOADS_PER_VALIDATION: Final = 4  # uploads that may be under way for each validation that may run
PACE_GRACE_S: Final = 30.0  # before the pace of an upload counts
PACE_BYTES_PER_S: Final = 10_000  # slower than the slowest line worth waiting for
PATH_SHOWN_MAX: Final = 200  # characters of one that leads nowhere
JSON: Final = "application/json"
_journal = logging.getLogger(__name__)


class Threads:
    """Where operations run: those that wait never take the threads of those that do not."""

    def __init__(self) -> None:
        self.quick = anyio.CapacityLimiter(QUICK_THREADS)
        self.waiting = anyio.CapacityLimiter(WAITING_THREADS)


class Edge:
    """Requests in, responses out."""

    def __init__(self, control: Control, *, visit_secret: bytes) -> None:
        self._control = control
        self._visit_secret = visit_secret
        self._threads = Threads()
        self._reads = Reads(control.settings.access_log)
        self._uploads = 0
        self._document = orjson.dumps(document(OPERATIONS, version=version("headgate")))

    def application(self) -> Starlette:
        """Return the ASGI application."""
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in OPERATIONS:
            by_path.setdefault(operation.path, {})[operation.method] = operation
        routes = [
            Route(path, functools.partial(self._answer, operations), methods=list(operations))
            for path, operations in by_path.items()
        ]
        routes.append(Route("/openapi.json", self._show_document, methods=["GET"]))
        pages = Site(self._control, visit_secret=self._visit_secret, limiter=self._threads.quick).pages()
        routes += [
            Route(path, functools.partial(self._show_page, page), methods=[method]) for (method, path), page in pages.items()
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _refused_path})
        app.router.redirect_slashes = False
        return app

    async def _answer(self, operations: Mapping[str, Operation], request: Request) -> Response:
        operation = operations["GET" if request.method == "HEAD" else request.method]

        async def performed(request: Request) -> Response:
            return _response(await self._perform(operation, request))

        response = await self._caught(operation.name, performed, request)
        if self._reads.are_told(operation):
            self._reads.note(operation.name, request, response.status_code)
        return response

    async def _show_page(self, page: Page, request: Request) -> Response:
        response = await self._caught("showStatus", page, request)
        if self._reads.are_pages_told and response.status_code != LED_ON:
            self._reads.note("showStatus", request, response.status_code)
        return response

    async def _caught(self, name: str, answer: Page, request: Request) -> Response:
        """Answer one request, whatever happens."""
        try:
            return await answer(request)
        except GatewayError as error:
            return refusal(error)
        except ClientGone:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:  # noqa: BLE001  # the request loop; counted
            self._control.failures.count += 1
            _journal.exception("unexpected error", extra={"action": name, "kind": type(error).__name__})
            return Response(orjson.dumps({"error": "unexpected error; the journal has it"}), 500, media_type=JSON)

    async def _perform(self, operation: Operation, request: Request) -> Reply:
        principal = await self._principal(operation, request)
        query = query_of(operation.query, request.query_params.multi_items())
        if_match = revision_of(request.headers.get("if-match")) if operation.has_if_match else None
        body, upload = await self._body(operation, request)
        call = Call(
            principal,
            dict(request.path_params),
            query,
            body=body,
            upload=upload,
            if_match=if_match,
            accept=request.headers.get("accept", "*/*"),
        )
        limiter = self._threads.waiting if operation.waits else self._threads.quick
        try:
            return await anyio.to_thread.run_sync(operation.perform, self._control, call, limiter=limiter)
        finally:
            if upload is not None:
                upload.discard()

    async def _principal(self, operation: Operation, request: Request) -> Principal:
        if operation.scope is None:
            return Principal("", frozenset())
        header = request.headers.get("authorization")
        principal = await anyio.to_thread.run_sync(principal_of, self._control.registry, header, limiter=self._threads.quick)
        seen_as(request, principal)
        principal.require(operation.scope)
        return principal

    async def _body(self, operation: Operation, request: Request) -> tuple[object, Upload | None]:
        receive: Receive = request.receive
        if operation.takes is Takes.UPLOAD:
            return None, await self._upload(request, receive)
        content = await read_body(receive, bytes_max=self._control.settings.json_bytes_max)
        if operation.takes is Takes.NOTHING and content:
            raise MalformedRequest("this operation takes no body")
        asked_with(request, content)
        return _parsed(content), None

    async def _upload(self, request: Request, receive: Receive) -> Upload:
        if self._uploads >= self._control.settings.validations_max * UPLOADS_PER_VALIDATION:
            raise NotReady("too many versions are being uploaded", hint="try again in a minute")
        self._uploads += 1
        try:
            return await receive_upload(
                _pieces(receive),
                request.headers.get("content-type", ""),
                settings=self._control.settings,
                stage=self._control.artifacts.staging,
            )
        finally:
            self._uploads -= 1

    async def _show_document(self, _: Request) -> Response:
        return Response(self._document, media_type=JSON)


def refusal(error: GatewayError) -> Response:
    """Return the response that an error becomes."""
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), status_of(error), headers, JSON)


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    """Yield a body as it comes; the server bounds the time between two pieces, and this the pace of the whole."""
    began_s, count = anyio.current_time(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message["body"]
        count += len(piece)
        spent_s = anyio.current_time() - began_s
        if spent_s > PACE_GRACE_S and count < spent_s * PACE_BYTES_PER_S:
            raise BodyStalled(f"the upload is slower than {PACE_BYTES_PER_S:,} bytes a second")
        if piece:
            yield piece
        if not message["more_body"]:
            return


def _parsed(content: bytes) -> object:
    if not content:
        return None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from error


def _response(reply: Reply) -> Response:
    match reply:
        case Answer(body, status, headers):
            return Response(orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS), status, dict(headers), JSON)
        case Text(content, media_type):
            return Response(content, headers={"content-type": media_type})
        case Lines(pieces, media_type):
            return StreamingResponse(pieces, media_type=media_type)
        case TemporaryFile(path, media_type):
            return FileResponse(
                path, media_type=media_type, background=BackgroundTask(shutil.rmtree, path.parent, ignore_errors=True)
            )


def _refused_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: f"there is nothing at {request.url.path[:PATH_SHOWN_MAX]}", 405: f"{request.method} is not offered here"}
    body = {"error": words.get(error.status_code, error.detail), "hint": "the paths stand in /openapi.json"}
    return Response(orjson.dumps(body), error.status_code, error.headers, JSON)
