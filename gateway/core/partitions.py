"""Which of several monitor processes handles a route: the one that the hash of its name says, and no other.

Every process reads the whole log, because its order is a matter of all streams, and folds its own routes only. So a route has one
process, one state and one who decides. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from zlib import crc32

FIRST: Final = "monitor"  # the one that there always is
Owns = Callable[[str], bool]  # whether a route is folded here


@dataclass(frozen=True, slots=True)
class Partition:
    """The routes of one process.

    Attributes:
        index: Of the process, from 0.
        count: Of all processes.
    """

    index: int = 0
    count: int = 1

    def has(self, name: str) -> bool:
        """Return whether a route is this process's."""
        return self.count == 1 or crc32(name.encode()) % self.count == self.index

    @property
    def process(self) -> str:
        """What the process is called."""
        return process_name(self.index)

    @property
    def consumer(self) -> str:
        """Under which name its checkpoint is kept; another number of processes has checkpoints of its own."""
        return FIRST if self.count == 1 else f"{self.process} of {self.count}"


WHOLE: Final = Partition()
LAYOUT: Final = "monitor processes"  # the checkpoint whose state is the number of processes that the others are of


def partitions(count: int) -> tuple[Partition, ...]:
    """Return those of so many processes."""
    return tuple(Partition(index, count) for index in range(count))


def process_name(index: int) -> str:
    """Return what a monitor process is called."""
    return f"{FIRST}-{index}" if index else FIRST
