"""Versions that a caller names and no route needs: loaded when asked for, the few used last kept warm."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateway.core.errors import DeadlineExceeded, NotReady, UnknownVersion
from gateway.core.models import Version, VersionState
from gateway.ports import RegistryStore
from gateway.serving.loader import Loader
from gateway.serving.pools import Pool

_POOLS_MAX: Final = 16  # beyond it a model belongs on a route; bounds the memory that callers can take
_LOOKUPS_MAX: Final = 64  # at once; bounds what callers can ask of the registry


class PinnedPools:
    """The pools of one worker that only callers need."""

    def __init__(self, registry: RegistryStore, loader: Loader, *, dropped: Callable[[Pool], None]) -> None:
        """Begin with none.

        Args:
            dropped: Told of each pool that is no longer kept, so that nothing else keeps its memory.
        """
        self._registry = registry
        self._loader = loader
        self._dropped = dropped
        self._pools: OrderedDict[tuple[str, str], Pool] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "lookup")
        self._lookups = 0

    def warm(self, model: str, version: str) -> Pool | None:
        """Return the pool of a version if it is warm."""
        pool = self._pools.get((model, version))
        if pool is not None:
            self._pools.move_to_end((model, version))
        return pool

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model that are warm here."""
        return [version for named, version in self._pools if named == model]

    async def pool(self, model: str, version: str, *, within_s: float) -> Pool:
        """Return the pool of a registered version, loading it if it is not warm.

        Raises:
            UnknownVersion: there is none, or it is retired.
            DeadlineExceeded: it did not load in time; the load goes on, so that the next request may find it warm.
            LoadFailed: it does not load.
        """
        found = self.warm(model, version)
        if found is not None:
            return found
        try:
            async with asyncio.timeout(within_s):
                found = await self._loader.load(await self.version(model, version))
        except TimeoutError:
            raise DeadlineExceeded(f"version {version!r} of {model!r} did not load within the deadline") from None
        self._pools[model, version] = found
        while len(self._pools) > _POOLS_MAX:
            self.drop(*next(iter(self._pools)))
        return found

    def drop(self, model: str, version: str) -> bool:
        """Keep a version warm no longer; return whether it was."""
        pool = self._pools.pop((model, version), None)
        if pool is not None:
            self._dropped(pool)
        return pool is not None

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
