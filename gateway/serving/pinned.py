"""Versions that nothing keeps warm: loaded when a caller asks, by naming one or by calling a model that nobody called lately.

A request waits for its version until its deadline, with a bounded number of others; beyond either it is refused, and the load
goes on, so that the next request may find it warm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from gateway.core.errors import ModelFault, NotReady, UnknownVersion
from gateway.core.models import Version, VersionState
from gateway.ports.stores import RegistryStore
from gateway.serving.loader import Loader
from gateway.serving.pools import Pool
from gateway.serving.shelf import Shelf

_LOOKUPS_MAX: Final = 64  # at once; bounds what callers can ask of the registry
_WAITING_MAX: Final = 1_000  # requests that wait for a load; as many as a worker takes connections by default


class PinnedPools:
    """The pools of one worker that only callers need."""

    def __init__(self, registry: RegistryStore, loader: Loader, shelf: Shelf) -> None:
        self._registry = registry
        self._loader = loader
        self._shelf = shelf
        self._thread = ThreadPoolExecutor(1, "lookup")
        self._lookups = 0
        self._waiting = 0

    async def pool(self, model: str, version: str, *, within_s: float) -> Pool:
        """Return the pool of a registered version, loading it if it is not warm.

        Raises:
            UnknownVersion: there is none, or it is retired.
            NotReady: it did not load in time, too many wait, or there is no room; the load goes on.
            LoadFailed: it does not load.
        """
        found = self._shelf.use((model, version))
        return found if found is not None else await self._within(self._named(model, version), model, version, within_s)

    async def warm_up(self, version: Version, *, within_s: float) -> None:
        """Load what a route answers with; where that does not load, the request finds the route as it was.

        Raises:
            NotReady: as for `pool`.
        """
        try:
            await self._within(self._loader.load(version, is_asked=True), version.model, version.version, within_s)
        except ModelFault:
            return

    def retry_in_s(self, versions: Iterable[Version]) -> float:
        """Return for how long none of these versions, which did not all load, is tried again."""
        return min(self._loader.retry_in_s(version.model, version.version) for version in versions)

    async def version(self, model: str, version: str) -> Version:
        """Return what the registry knows of a version.

        Raises:
            UnknownVersion: there is none, or it is retired.
            NotReady: too many are being looked up.
        """
        if self._lookups >= _LOOKUPS_MAX:
            raise NotReady("too many versions are being looked up")
        self._lookups += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._registry.version, model, version)
        finally:
            self._lookups -= 1
        if found.state is VersionState.RETIRED:
            raise UnknownVersion(f"version {version!r} of {model!r} is retired")
        return found

    def close(self) -> None:
        """Look nothing up any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _named(self, model: str, version: str) -> Pool:
        return await self._loader.load(await self.version(model, version), is_asked=True)

    async def _within(self, load: Coroutine[Any, Any, Pool], model: str, version: str, within_s: float) -> Pool:
        """Wait for a load until the deadline, if not too many do."""
        if self._waiting >= _WAITING_MAX:
            load.close()
            raise NotReady(f"{_WAITING_MAX:,} requests are waiting for versions to be loaded")
        self._waiting += 1
        try:
            async with asyncio.timeout(within_s):
                return await load
        except TimeoutError:
            raise NotReady(f"version {version!r} of {model!r} did not load within the deadline") from None
        finally:
            self._waiting -= 1
