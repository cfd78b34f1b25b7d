"""Loads and warms versions in one thread that serves nobody, one after the other; whoever needs the same version shares the load.

A version that did not load is not tried again for a while, so that a broken artifact costs no more than its first try.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateway.core.errors import ModelFault
from gateway.core.models import Version
from gateway.metrics import LOAD_FAILURES
from gateway.ports import Clock, MetricsBank
from gateway.serving.pools import Pool
from gateway.serving.warming import Warm

_log = logging.getLogger(__name__)
_RETRY_S: Final = 30.0  # until a version that did not load is tried again
Key = tuple[str, str]  # model, version


class Loader:
    """The loads of one worker; every method is called on the event loop."""

    def __init__(
        self, *, warm: Callable[[Version], Warm], pool: Callable[[Warm], Pool], metrics: MetricsBank, clock: Clock
    ) -> None:
        self._warm = warm
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "loader")
        self._loading: dict[Key, asyncio.Task[Pool]] = {}
        self._failed: dict[Key, tuple[float, ModelFault]] = {}

    async def load(self, version: Version) -> Pool:
        """Return a pool of the version, warm.

        Cancelling the caller does not cancel the load, which others may be waiting for.

        Raises:
            LoadFailed, ArtifactCorrupt: now, or within the last 30 s.
        """
        key = (version.model, version.version)
        task = self._loading.get(key)
        if task is None:
            retry_at_s, fault = self._failed.get(key, (0.0, None))
            if fault is not None and self._clock.monotonic_s() < retry_at_s:
                raise type(fault)(fault.message, hint=fault.hint)  # one raised again and again would grow its traceback
            task = self._loading[key] = asyncio.get_running_loop().create_task(self._loaded(version))
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

    def close(self) -> None:
        """Start no further load."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _loaded(self, version: Version) -> Pool:
        warm = await asyncio.get_running_loop().run_in_executor(self._thread, self._warm, version)
        return self._pool(warm)

    def _over(self, version: Version, done: asyncio.Task[Pool]) -> None:
        key = (version.model, version.version)
        del self._loading[key]
        fault = None if done.cancelled() else done.exception()
        if fault is None:
            self._failed.pop(key, None)
        elif isinstance(fault, ModelFault):
            self._failed[key] = (self._clock.monotonic_s() + _RETRY_S, type(fault)(fault.message, hint=fault.hint))
            self._metrics.cell(LOAD_FAILURES.name, (("model", key[0]), ("version", key[1]))).add(1.0)
            facts = {"action": "load", "model": key[0], "version": key[1], "reason": str(fault)}
            _log.error("a version did not load", extra=facts)
