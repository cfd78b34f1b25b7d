"""The warm versions of one worker, within a budget of bytes: what is kept, and beside it what was used last.

A version is kept while a route that has a choice or a way back needs it, or an operator pinned it; nothing evicts it. The rest
was loaded when somebody called it, and what nobody called for longest goes first. An evicted version finishes what it runs and
then gives its memory back. Everything happens on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Final

from gateway.metrics.metric import cell
from gateway.metrics.serving import EVICTIONS, MODEL_MEMORY, WARM_BYTES, WARM_VERSIONS
from gateway.ports.metrics import MetricsBank
from gateway.serving.pools import Pool

_log = logging.getLogger(__name__)
Pair = tuple[str, str]  # model, version
NOTHING: Final[frozenset[Pair]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Place:
    pool: Pool
    memory_bytes: int  # in this process
    outside_bytes: int

    @property
    def bytes(self) -> int:
        return self.memory_bytes + self.outside_bytes


class Shelf(Mapping[Pair, Pool]):
    """Pools by (model, version).

    Attributes:
        changed: Called with each version that came or went.
        has_dropped: Set when one went; whoever gives memory back clears it.
    """

    def __init__(self, *, bytes_max: int, metrics: MetricsBank) -> None:
        self.changed: Callable[[Pair], None] = lambda _: None
        self.has_dropped = asyncio.Event()
        self._bytes_max = bytes_max
        self._metrics = metrics
        self._places: OrderedDict[Pair, _Place] = OrderedDict()  # by last use, the longest ago first
        self._kept: Set[Pair] = NOTHING
        self._bytes = 0
        self._is_over = False
        self._warm_versions = cell(metrics, WARM_VERSIONS)
        self._warm_bytes = cell(metrics, WARM_BYTES)
        self._evictions = cell(metrics, EVICTIONS)

    def __getitem__(self, key: Pair) -> Pool:
        """Return a warm version's pool."""
        return self._places[key].pool

    def __iter__(self) -> Iterator[Pair]:
        """Yield every warm version."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return how many are warm."""
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        """Return whether a version is warm."""
        return key in self._places

    def use(self, key: Pair) -> Pool | None:
        """Return a version's pool if it is warm, as the one used last."""
        place = self._places.get(key)
        if place is None:
            return None
        self._places.move_to_end(key)
        return place.pool

    def put(self, key: Pair, pool: Pool, memory_bytes: int, outside_bytes: int = 0) -> None:
        """Take a version in, evicting others as far as the budget asks.

        Args:
            outside_bytes: What it holds in processes of its own.
        """
        self.drop(key)
        place = self._places[key] = _Place(pool, memory_bytes, outside_bytes)
        self._count(key, place.bytes, place.bytes)
        self.changed(key)
        self._evict(0, spared=key)

    def weigh(self, key: Pair, outside_bytes: int) -> None:
        """Say what a version holds in processes of its own now, evicting others as far as the budget asks; it is no use of it."""
        place = self._places.get(key)
        if place is not None and place.outside_bytes != outside_bytes:
            weighed = self._places[key] = _Place(place.pool, place.memory_bytes, outside_bytes)
            self._count(key, weighed.bytes - place.bytes, weighed.bytes)
            self._evict(0, spared=key)

    def drop(self, key: Pair) -> None:
        """Let a version go; requests that hold it finish, then its instance closes."""
        place = self._places.pop(key, None)
        if place is not None:
            self._count(key, -place.bytes, 0)
            self.has_dropped.set()
            self.changed(key)

    def keep(self, kept: Set[Pair]) -> None:
        """Say which versions nothing evicts; they need not be here."""
        self._kept = kept

    def make_room(self, memory_bytes: int) -> bool:
        """Evict what a version of that size needs; return False, having evicted nothing, when what is kept leaves no room."""
        kept = sum([self._places[key].bytes for key in self._kept if key in self._places])
        if kept + memory_bytes > self._bytes_max:
            return False
        self._evict(memory_bytes, spared=None)
        return True

    def has_room_to_keep(self, keys: Iterable[Pair]) -> bool:
        """Return whether versions, as far as they are here, fit beside what is kept already."""
        kept = [self._places[key].bytes for key in {*self._kept, *keys} if key in self._places]
        return sum(kept) <= self._bytes_max

    def _evict(self, coming_bytes: int, *, spared: Pair | None) -> None:
        """Evict the longest unused until the budget holds, or only what is kept is left."""
        if self._bytes + coming_bytes <= self._bytes_max:
            self._is_over = False
            return
        for key in [key for key in self._places if key not in self._kept and key != spared]:
            self.drop(key)
            self._evictions.add(1.0)
            if self._bytes + coming_bytes <= self._bytes_max:
                return
        if not self._is_over:
            self._is_over = True
            facts = {"action": "evict", "bytes": self._bytes, "bytes_max": self._bytes_max}
            _log.warning("the versions that routes need take more than serving.model_memory_bytes_max", extra=facts)

    def _count(self, key: Pair, change: int, memory_bytes: int) -> None:
        self._bytes += change
        cell(self._metrics, MODEL_MEMORY, *key).set(memory_bytes)
        self._warm_versions.set(len(self._places))
        self._warm_bytes.set(self._bytes)
