"""Where spans go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.core.traces import Span


class Traces(Protocol):
    """Where spans go. Losing one loses a picture."""

    def send(self, spans: Sequence[Span]) -> None:
        """Take spans that ended; never blocks. What finds no room, or nobody who takes it later, is dropped."""

    def close(self) -> None:
        """Send what waits, for at most 2 s."""
