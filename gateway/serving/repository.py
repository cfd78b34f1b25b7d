"""The protocol's model repository: which versions there are, and holding one warm that no route needs, or letting it go.

What a route needs is loaded without being asked for and is never unloaded here: routes are changed through the admin API, where
a change is compared, prepared and audited. Versions are immutable, so loading a warm one again changes nothing; files and
configurations come with a registration and never over the protocol. Loading and unloading is of this worker: another one loads a
version with the first request that names it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.core.access import Principal
from gateway.core.errors import NotOffered, VersionNeeded
from gateway.core.fields import Json
from gateway.core.models import Version, VersionState
from gateway.ports import Clock, RegistryStore
from gateway.serving.loader import Loader
from gateway.serving.pinned import PinnedPools
from gateway.serving.routing import Router
from gateway.serving.shared import Shared

_log = logging.getLogger(__name__)
_VERSIONS_MAX: Final = 10_000  # of one index, 1 MB of JSON; the protocol has no pages
_PAGE: Final = 1_000
_FRESH_S: Final = 1.0  # of the registry's listing, which may take as long to read
_LOAD_S: Final = 60.0  # a caller's wait for a load; 100 MB take 0.3 s
Listing = Mapping[str, Mapping[str, VersionState]]  # model → version → its state


class Repository:
    """The versions of one worker, as the protocol shows and moves them."""

    def __init__(self, *, registry: RegistryStore, router: Router, pinned: PinnedPools, loader: Loader, clock: Clock) -> None:
        self._router = router
        self._pinned = pinned
        self._loader = loader
        self._listing: Shared[Listing] = Shared("index", lambda: _listed(registry), fresh_s=_FRESH_S, clock=clock)

    async def index(self, *, is_ready_only: bool) -> list[Json]:
        """Return a row for each version under each name that can be asked for.

        Raises:
            NotOffered: there are too many for one answer.
            StoreFailed: the registry cannot be read; what is ready can be listed all the same.
        """
        if is_ready_only:
            return [
                {"name": name, "version": version, "state": "READY", "reason": ""}
                for name, model in self._names()
                for version in self.warm_versions(model)
            ]
        listing = await self._listing.latest()
        rows = [
            {"name": name, "version": version, **self._standing(model, version, state)}
            for name, model in self._names()
            for version, state in listing.get(model, {}).items()
        ]
        if len(rows) > _VERSIONS_MAX:
            raise _too_many()
        return rows

    async def load(self, name: str, version: str, principal: Principal) -> None:
        """Hold a version warm, or without one everything that the name needs.

        Raises:
            UnknownRoute, UnknownVersion: there is none, or it is retired.
            LoadFailed, ArtifactCorrupt: it does not load; what served goes on.
            NotReady: it takes long, and the load goes on; or there is no room for it.
        """
        route = self._router.table.table.route(name)
        for wanted in (version,) if version else route.needs():
            if (route.model, wanted) in self._router.table.pools:
                continue
            self._loader.forgive(route.model, wanted)
            await self._pinned.pool(route.model, wanted, within_s=_LOAD_S)
            facts = {"action": "load", "model": route.model, "version": wanted, "principal": principal.name}
            _log.info("a version was loaded by request", extra=facts)

    async def unload(self, name: str, version: str, principal: Principal) -> None:
        """Let a version go that no route needs; one that is not warm stays as it is.

        Raises:
            UnknownRoute, UnknownVersion: there is none.
            VersionNeeded: a route needs it, or, without a version, the name answers requests.
        """
        route = self._router.table.table.route(name)
        if not version:
            needed = ", ".join(map(repr, route.needs()))
            raise VersionNeeded(
                f"{name!r} is served and needs the versions {needed}",
                hint="name a version that no route needs in parameters.version, or change the route through the admin API",
            )
        key = (route.model, version)
        if key in self._router.needed:
            raise VersionNeeded(
                f"version {version!r} of {route.model!r} is needed by {self._needing(*key)}",
                hint="change the route through the admin API first",
            )
        if self._pinned.drop(*key):
            facts = {"action": "unload", "model": route.model, "version": version, "principal": principal.name}
            _log.info("a version was unloaded by request", extra=facts)
        else:
            await self._pinned.version(*key)

    def warm_versions(self, model: str) -> list[str]:
        """Return the versions of a model that are warm here, in order of name."""
        held = [version for named, version in self._router.table.pools if named == model]
        return sorted({*held, *self._pinned.versions(model)})

    def close(self) -> None:
        """List nothing any more."""
        self._listing.close()

    def _names(self) -> Iterator[tuple[str, str]]:
        """Yield every name that can be asked for, in order, with its model."""
        table = self._router.table.table
        for name in sorted({*table.routes, *table.champions}):
            yield name, table.routes[name].model if name in table.routes else name

    def _standing(self, model: str, version: str, state: VersionState) -> Json:
        if (model, version) in self._router.table.pools or self._pinned.warm(model, version) is not None:
            return {"state": "READY", "reason": ""}
        if self._loader.is_loading(model, version):
            return {"state": "LOADING", "reason": ""}
        if state is VersionState.RETIRED:
            return {"state": "UNAVAILABLE", "reason": "retired"}
        return {"state": "UNAVAILABLE", "reason": "failed to load" if self._loader.has_failed(model, version) else "not loaded"}

    def _needing(self, model: str, version: str) -> str:
        """Return what needs a version, for people."""
        table = self._router.table.table
        routes = [route.name for route in table.routes.values() if route.model == model and version in route.needs()]
        if routes:
            return f"the route {min(routes)!r}"
        return "its model, as the champion" if table.champions.get(model) == version else "the change that was prepared last"


def _listed(registry: RegistryStore) -> Listing:
    """Return every version, read page by page; blocks."""
    found: dict[str, dict[str, VersionState]] = {}
    count, after = 0, ""
    while models := registry.models(after, _PAGE):
        after = models[-1][0]
        for model, _ in models:
            found[model] = {version.version: version.state for version in _versions(registry, model)}
            count += len(found[model])
            if count > _VERSIONS_MAX:
                raise _too_many()
    return found


def _versions(registry: RegistryStore, model: str) -> Iterator[Version]:
    after = ""
    while page := registry.versions(model, after, _PAGE):
        yield from page
        after = page[-1].version


def _too_many() -> NotOffered:
    return NotOffered(
        f"there are more than {_VERSIONS_MAX:,} versions, too many for one index",
        hint='ask for {"ready": true}, or list them page by page through the admin API',
    )
