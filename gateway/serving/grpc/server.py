"""One worker's gRPC server: bytes and metadata to and from the service, bounds, and a drain that breaks no call.

The library listens by itself, with `SO_REUSEPORT`, so that the workers share the port; the supervisor only keeps it from others.
A call that its caller gave up is dropped while it waits for its version and goes on to its record once it runs, as over HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from gateway.core.errors import NotReady
from gateway.serving.grpc.service import GrpcService, Received
from gateway.serving.grpc.stream import Begun, Stream
from gateway.settings import ServingSettings
from gateway.web import Certificate, CertificateFiles, code_of

_SERVICE: Final = "inference.GRPCInferenceService"
_DETAILS_MAX: Final = 1_000  # characters; they travel as a header, and clients bound those at 8 KiB
_AGE_S: Final = 300.0  # of a connection, which then is asked to begin anew: else a new worker would wait for its first caller
_STREAM_AGE_S: Final = 240.0  # of a stream, which then ends in order; its connection is not cut before
_REFUSING_S: Final = 0.2  # at the beginning of a drain; a caller's next call comes within that, or it is idle
_MESSAGE_BYTES: Final = 64 * 1024  # for names, shapes and parameters around the tensors
_Found = TypeVar("_Found")


class GrpcServer:
    """The gRPC side of one event loop."""

    def __init__(self, service: GrpcService, settings: ServingSettings) -> None:
        self._service = service
        self._settings = settings
        self._replies: set[asyncio.Task[Any]] = set()
        self._streams: dict[Stream, asyncio.Task[Any] | None] = {}  # with what runs each
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", min(settings.body_bytes_max + _MESSAGE_BYTES, 2**31 - 1)),
                ("grpc.max_concurrent_streams", settings.connections_max),
                ("grpc.max_allowed_incoming_connections", settings.connections_max),
                ("grpc.max_connection_idle_ms", int(settings.keep_alive_s * 1000)),
                ("grpc.max_connection_age_ms", int(_AGE_S * 1000)),
                ("grpc.max_connection_age_grace_ms", int((_STREAM_AGE_S + settings.drain_s) * 1000)),
            ],
            maximum_concurrent_rpcs=settings.connections_max,
        )
        methods = {name: grpc.unary_unary_rpc_method_handler(self._handler(name)) for name in service.methods}
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._streamed)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))

    async def start(self, host: str, port: int) -> None:
        """Accept connections from now on.

        Args:
            host: An address, not a name.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if self._settings.grpc_certificate:
            self._server.add_secure_port(address, _credentials(self._settings.grpc_certificate, self._settings.grpc_key))
        else:
            self._server.add_insecure_port(address)
        await self._server.start()

    async def drain(self, drain_s: float) -> None:
        """Refuse further calls, finish what is in flight; return when nothing is or time is over.

        The library cancels what it has accepted and not yet handed over when it stops; so calls are first refused for a while,
        with the code that tells clients to try again.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + drain_s
        self._service.is_draining = True
        await asyncio.sleep(min(_REFUSING_S, drain_s))
        for stream in self._streams:
            stream.end("on a worker that stops")
        owed = [*self._replies, *filter(None, self._streams.values())]
        if owed:
            await asyncio.wait(owed, timeout=max(end_s - loop.time(), 0.0))
        await self._server.stop(max(end_s - loop.time(), 0.0))

    def _handler(self, method: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(body: bytes, context: Any) -> bytes:
            received = Received(body, _headers(context), context.time_remaining())
            task = self._begun(self._service.reply(method, received))
            try:
                reply = await asyncio.shield(task)
            except asyncio.CancelledError:
                received.leave()
                raise
            if reply.error is not None:
                code = grpc.StatusCode[code_of(reply.error)]
                with _until_left():
                    await context.abort(code, str(reply.error)[:_DETAILS_MAX], reply.metadata)
            context.set_trailing_metadata(reply.metadata)
            return reply.body

        return handle

    async def _streamed(self, requests: AsyncIterator[bytes], context: Any) -> None:
        if self._service.is_draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        headers = _headers(context)

        def begin(body: bytes) -> Begun:
            received = Received(body, headers, context.time_remaining())
            return Begun(len(body), self._begun(self._service.streamed(received)), received.leave)

        settings = self._settings
        stream = Stream(begin, bytes_max=settings.body_bytes_max, idle_s=settings.keep_alive_s, age_s=_STREAM_AGE_S)
        self._streams[stream] = asyncio.current_task()
        try:
            with _until_left():
                await stream.run(requests, context.write)
        except NotReady as error:
            with _until_left():
                await context.abort(grpc.StatusCode[code_of(error)], str(error))
        finally:
            del self._streams[stream]

    def _begun(self, work: Coroutine[Any, Any, _Found]) -> asyncio.Task[_Found]:
        """Return work as a task that a drain waits for."""
        task = asyncio.create_task(work)
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)
        return task


def _credentials(certificate: str, key: str) -> grpc.ServerCredentials:
    """Return what a port with this certificate needs.

    Raises:
        MalformedRequest: the files do not hold it.
    """
    files = CertificateFiles(certificate, key)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        found = files.renewed()
        return None if found is None else _configuration(found)

    return grpc.dynamic_ssl_server_credentials(_configuration(files.first), renewed)


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    chain, key = certificate
    return grpc.ssl_server_certificate_configuration([(key, chain)])


@contextmanager
def _until_left() -> Iterator[None]:
    """End a call quietly whose caller left while something was sent: the library's way to say so is an error of its own."""
    try:
        yield
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _headers(context: Any) -> dict[bytes, bytes]:
    return {name.encode(): _bytes(value) for name, value in context.invocation_metadata()}


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
