"""One worker's gRPC server: bytes and metadata to and from the service, bounds, and a drain that breaks no call.

The library listens by itself, with `SO_REUSEPORT`, so that the workers share the port; the supervisor only keeps it from others.
A call that its caller gave up is dropped while it waits for its version and goes on to its record once it runs, as over HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from gateway.serving.grpc.service import GrpcService, Received, Reply
from gateway.settings import ServingSettings
from gateway.web import code_of

_SERVICE: Final = "inference.GRPCInferenceService"
_DETAILS_MAX: Final = 1_000  # characters; they travel as a header, and clients bound those at 8 KiB
_AGE_S: Final = 300.0  # of a connection, which then is asked to begin anew: else a new worker would wait for its first caller
_REFUSING_S: Final = 0.2  # at the beginning of a drain; a caller's next call comes within that, or it is idle
_MESSAGE_BYTES: Final = 64 * 1024  # for names, shapes and parameters around the tensors


class GrpcServer:
    """The gRPC side of one event loop."""

    def __init__(self, service: GrpcService, settings: ServingSettings) -> None:
        self._service = service
        self._replies: set[asyncio.Task[Reply]] = set()
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", min(settings.body_bytes_max + _MESSAGE_BYTES, 2**31 - 1)),
                ("grpc.max_concurrent_streams", settings.connections_max),
                ("grpc.max_allowed_incoming_connections", settings.connections_max),
                ("grpc.max_connection_idle_ms", int(settings.keep_alive_s * 1000)),
                ("grpc.max_connection_age_ms", int(_AGE_S * 1000)),
                ("grpc.max_connection_age_grace_ms", int(settings.drain_s * 1000)),
            ],
            maximum_concurrent_rpcs=settings.connections_max,
        )
        methods = {name: grpc.unary_unary_rpc_method_handler(self._handler(name)) for name in service.methods}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))

    async def start(self, host: str, port: int) -> None:
        """Accept connections from now on.

        Args:
            host: An address, not a name.
        """
        self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
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
        if self._replies:
            await asyncio.wait(self._replies, timeout=max(end_s - loop.time(), 0.0))
        await self._server.stop(max(end_s - loop.time(), 0.0))

    def _handler(self, method: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(body: bytes, context: Any) -> bytes:
            headers = {name.encode(): _bytes(value) for name, value in context.invocation_metadata()}
            received = Received(body, headers, context.time_remaining())
            task = asyncio.create_task(self._service.reply(method, received))
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)
            try:
                reply = await asyncio.shield(task)
            except asyncio.CancelledError:
                if received.on_gone is not None:
                    received.on_gone()
                raise
            if reply.error is not None:
                code = grpc.StatusCode[code_of(reply.error)]
                await context.abort(code, str(reply.error)[:_DETAILS_MAX], reply.metadata)
            context.set_trailing_metadata(reply.metadata)
            return reply.body

        return handle


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
