"""Loads and warms versions in one thread that serves nobody, one after the other; whoever needs the same version shares the load.

What routes need goes before what a caller asked for, so that a change of a route never waits for more than one load of the
latter. Every worker needs it at the same moment; once a worker answers requests it takes turns with the others, so that they
answer undisturbed meanwhile. The thread steps back behind the event loop: ONNX Runtime gives the interpreter lock away while it
loads, so what a load takes from requests is mostly the processor. A version that did not load is not tried again for a while,
so that a broken artifact costs no more than its first try.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateway.core.errors import ModelFault, NotReady
from gateway.core.models import Version
from gateway.metrics.metric import cell, histogram
from gateway.metrics.serving import LOAD_DURATION, LOAD_FAILURES, PROVIDER_FALLBACKS
from gateway.ports.clock import Clock
from gateway.ports.loading import LoadLock, MemoryMeter
from gateway.ports.metrics import MetricsBank
from gateway.serving.pools import Pool
from gateway.serving.shelf import Pair, Shelf
from gateway.serving.warming import Warm

_log = logging.getLogger(__name__)
_RETRY_S: Final = 30.0  # until a version that did not load is tried again
_ASKED_MAX: Final = 64  # loads that callers asked for, waiting; at 5 ms for a small version 0.3 s
_NICENESS: Final = 10  # a tenth of what the event loop gets where both want one core; less would hold locks for too long

_OTHERS_S: Final = 5.0  # for the other workers to load; a change's loads wait at once, so it is spent once of its 30 s
_LOOK_S: Final = 0.01  # between two looks at whether they have
_WEIGH_S: Final = 5.0  # between two looks at versions' own processes, of 20 µs each; one that idles stays for a minute
_GIVE_BACK_S: Final = 1.0  # after a version went: the requests that hold it finish, and several are given back at once


class Loader:
    """The loads of one worker onto its shelf; every method is called on the event loop."""

    def __init__(
        self,
        *,
        warm: Callable[[Version], Warm],
        pool: Callable[[Warm], Pool],
        shelf: Shelf,
        metrics: MetricsBank,
        clock: Clock,
    ) -> None:
        self._warm = warm
        self._pool = pool
        self._shelf = shelf
        self._metrics = metrics
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "loader", initializer=_step_back)
        self._loading: dict[Pair, asyncio.Task[Pool]] = {}
        self._failed: dict[Pair, tuple[float, ModelFault]] = {}
        self._lock: LoadLock | None = None
        self._is_busy = False
        self._needed: deque[asyncio.Future[None]] = deque()  # loads that wait for the thread
        self._asked: deque[asyncio.Future[None]] = deque()
        self._duration = histogram(metrics, LOAD_DURATION)

    def take_turns(self, lock: LoadLock) -> None:
        """Load what routes need in turn with the other workers from now on: this one has somebody to disturb."""
        self._lock = lock

    async def load(self, version: Version, *, is_asked: bool = False) -> Pool:
        """Return a pool of the version, warm and on the shelf.

        Cancelling the caller does not cancel the load, which others may be waiting for.

        Args:
            is_asked: Whether a caller wants it rather than a route; it waits behind what routes need, and for room.

        Raises:
            NotReady: it is asked for, and too many are, or what is kept leaves no room for it.
            LoadFailed, ArtifactCorrupt: now, or within the last 30 s.
        """
        key = (version.model, version.version)
        task = self._loading.get(key)
        if task is None:
            retry_at_s, fault = self._failed.get(key, (0.0, None))
            if fault is not None and self._clock.monotonic_s() < retry_at_s:
                raise type(fault)(fault.message, hint=fault.hint)  # one raised again and again would grow its traceback
            if is_asked:
                self._refuse_too_many()
            task = self._loading[key] = asyncio.get_running_loop().create_task(self._loaded(version, is_asked=is_asked))
            task.add_done_callback(lambda done: self._over(version, done))
        return await asyncio.shield(task)

    def forgive(self, model: str, version: str) -> None:
        """Try a version that did not load again with the next call: a person says that it may now."""
        self._failed.pop((model, version), None)

    def is_loading(self, model: str, version: str) -> bool:
        """Return whether a load of the version is under way or waits."""
        return (model, version) in self._loading

    def has_failed(self, model: str, version: str) -> bool:
        """Return whether the version's last load failed."""
        return (model, version) in self._failed

    def retry_in_s(self, model: str, version: str) -> float:
        """Return for how long a version that did not load is not tried again; 0 when it may be, or is being."""
        retry_at_s, _ = self._failed.get((model, version), (0.0, None))
        return max(retry_at_s - self._clock.monotonic_s(), 0.0)

    async def give_back(self, memory: MemoryMeter) -> None:
        """Give the memory of unloaded versions back to the system, until cancelled.

        The C library keeps what was freed in pieces: 110 MB of a forest of 2,000 trees.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._shelf.has_dropped.wait()
            await asyncio.sleep(_GIVE_BACK_S)
            self._shelf.has_dropped.clear()
            await loop.run_in_executor(self._thread, memory.trim)

    async def weigh(self) -> None:
        """Have the shelf know what versions hold in processes of their own, which come and go and grow, until cancelled."""
        while True:
            await asyncio.sleep(_WEIGH_S)
            for key in [key for key, pool in self._shelf.items() if pool.version.has_pickle]:
                if (pool := self._shelf.get(key)) is not None:
                    self._shelf.weigh(key, pool.outside_bytes)

    def close(self) -> None:
        """Start no further load."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _refuse_too_many(self) -> None:
        if len(self._asked) >= _ASKED_MAX:
            raise NotReady(f"{_ASKED_MAX} versions are waiting to be loaded")

    async def _loaded(self, version: Version, *, is_asked: bool) -> Pool:
        lock = self._lock
        if is_asked or lock is None:  # a caller waits for what he asked, and the other workers need not load it
            return await self._loaded_here(version, is_asked=is_asked)
        has_lock = await self._has_turn(lock)
        try:
            return await self._loaded_here(version, is_asked=False)
        finally:
            if has_lock:
                lock.release()

    async def _has_turn(self, lock: LoadLock) -> bool:
        """Wait until no other worker loads, then return True; return False when they take too long."""
        until_s = self._clock.monotonic_s() + _OTHERS_S
        while not lock.try_take():
            if self._clock.monotonic_s() >= until_s:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def _loaded_here(self, version: Version, *, is_asked: bool) -> Pool:
        await self._turn(self._asked if is_asked else self._needed)
        try:
            if is_asked and not self._shelf.make_room(version.size_bytes):
                raise NotReady(
                    f"version {version.version!r} of {version.model!r} finds no room", hint="raise serving.model_memory_bytes_max"
                )
            began_s = self._clock.monotonic_s()
            warm = await asyncio.get_running_loop().run_in_executor(self._thread, self._warm, version)
            self._duration.observe(self._clock.monotonic_s() - began_s)
            self._note_fallback(warm)
            pool = self._pool(warm)
            self._shelf.put((version.model, version.version), pool, warm.memory_bytes, warm.outside_bytes)
            return pool
        finally:
            self._pass_on()

    def _note_fallback(self, warm: Warm) -> None:
        """Count and tell that a version runs on another provider than the first that it names."""
        version = warm.version
        if warm.provider != version.provider:
            cell(self._metrics, PROVIDER_FALLBACKS, version.model, version.version).add(1.0)
            facts = {"action": "load", "model": version.model, "version": version.version, "provider": warm.provider}
            _log.warning("a version runs without the execution provider it names first", extra=facts)

    async def _turn(self, waiting: deque[asyncio.Future[None]]) -> None:
        """Wait for the thread, which one load has at a time."""
        if self._is_busy:
            turn = asyncio.get_running_loop().create_future()
            waiting.append(turn)
            await turn
        self._is_busy = True

    def _pass_on(self) -> None:
        """Give the thread to the next load, if any waits."""
        for waiting in (self._needed, self._asked):
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._is_busy = False

    def _over(self, version: Version, done: asyncio.Task[Pool]) -> None:
        key = (version.model, version.version)
        del self._loading[key]
        fault = None if done.cancelled() else done.exception()
        if fault is None:
            self._failed.pop(key, None)
        elif isinstance(fault, ModelFault):
            self._failed[key] = (self._clock.monotonic_s() + _RETRY_S, type(fault)(fault.message, hint=fault.hint))
            cell(self._metrics, LOAD_FAILURES, *key).add(1.0)
            facts = {"action": "load", "model": key[0], "version": key[1], "reason": str(fault)}
            _log.error("a version did not load", extra=facts)


def _step_back() -> None:
    """Lower the priority of the calling thread, for good; Linux counts niceness by thread."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
