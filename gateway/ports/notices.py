"""Where notices go."""

from __future__ import annotations

from typing import Protocol

from gateway.core.notices import Message


class Sender(Protocol):
    """Delivers notices to one channel. Blocks for at most 30 s, whatever hangs."""

    def send(self, message: Message) -> None:
        """Deliver a message; the same id may come twice.

        Raises:
            DeliveryFailed: it was not taken, or nobody knows whether it was.
        """
