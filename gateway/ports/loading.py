"""What a worker asks of the system when it loads: how much memory it has, and whose turn it is."""

from __future__ import annotations

from typing import Protocol


class MemoryMeter(Protocol):
    """The memory of this process. Called from any thread; blocks for less than a millisecond."""

    def heap_bytes(self) -> int:
        """Return what is allocated now, without what was freed and not yet given back."""

    def trim(self) -> None:
        """Give back to the system what was freed."""


class LoadLock(Protocol):
    """Held by the worker whose turn it is to load, so that the others answer undisturbed. Never blocks."""

    def try_take(self) -> bool:
        """Take it and return True, unless another process holds it; the same process may take it several times."""

    def release(self) -> None:
        """Give back what was taken once; a process that dies gives back everything."""
