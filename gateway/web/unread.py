"""What was written to a client and not yet taken by it: senders wait for it, and one that never reads is cut."""

from __future__ import annotations

import asyncio

from gateway.web.limits import BYTES_PER_S_MIN, Limits


class Unread:
    """Of one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self._loop = loop
        self._limits = limits
        self._senders: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def taken(self) -> None:
        """Wait until `release`."""
        sender = self._loop.create_future()
        self._senders.append(sender)
        await sender

    def release(self) -> None:
        """Let senders go on."""
        senders, self._senders = self._senders, []
        for sender in senders:
            if not sender.done():
                sender.set_result(None)

    def expect(self, transport: asyncio.WriteTransport) -> None:
        """Cut a client that does not take what was written, at the pace that is asked of bodies."""
        if self._timer is None and (unread := transport.get_write_buffer_size()):
            within_s = self._limits.body_timeout_s + unread / BYTES_PER_S_MIN
            self._timer = self._loop.call_later(within_s, transport.abort)

    def forgive(self) -> None:
        """Expect nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
