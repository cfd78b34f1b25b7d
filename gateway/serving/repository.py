"""The protocol's model repository: which versions there are, and holding one warm that no route needs, or letting it go.

What a route needs is loaded without being asked for and is never unloaded here: routes are changed through the admin API, where
a change is compared, prepared and audited. Versions are immutable, so loading a warm one again changes nothing; files and
configurations come with a registration and never over the protocol.

Loading and unloading is of every worker, whichever took the call. What was loaded is a hold in the registry, which all workers
follow like any other change, so that a worker that starts later has it too. This worker loads first: what does not load, or
finds no room, is not held. Then the answer waits for the others, which load in turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateway.core.access import Principal
from gateway.core.changes import Change, DropHold, PutHold, WorkerStatus
from gateway.core.errors import NotOffered, NotReady, VersionNeeded
from gateway.core.fields import Json
from gateway.core.models import Version, VersionState
from gateway.core.routes import Revision
from gateway.ports.clock import Clock
from gateway.ports.stores import RegistryStore
from gateway.serving.loader import Loader
from gateway.serving.pinned import PinnedPools
from gateway.serving.routing import Router
from gateway.serving.shared import Shared
from gateway.serving.shelf import Pair, Shelf

_log = logging.getLogger(__name__)
_VERSIONS_MAX: Final = 10_000  # of one index, 1 MB of JSON; the protocol has no pages
_PAGE: Final = 1_000
_FRESH_S: Final = 1.0  # of the registry's listing, which may take as long to read
_LOAD_S: Final = 60.0  # a caller's wait for a load, and then for the other workers'; 100 MB take 0.3 s
_UNLOAD_S: Final = 5.0  # for every worker to follow, which takes milliseconds
_HOLDS_MAX: Final = 10_000  # as many as one index lists
Listing = Mapping[str, Mapping[str, VersionState]]  # model → version → its state


class Repository:
    """The versions of one worker, as the protocol shows and moves them.

    Args:
        workers: All of the gateway.
    """

    def __init__(
        self,
        *,
        registry: RegistryStore,
        workers: Sequence[str],
        router: Router,
        pinned: PinnedPools,
        loader: Loader,
        shelf: Shelf,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._workers = workers
        self._thread = ThreadPoolExecutor(1, "holds")
        self._shelf = shelf
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
        """Have every worker hold a version warm, or without one everything that the name needs.

        Raises:
            UnknownRoute, UnknownVersion: there is none, or it is retired.
            LoadFailed, ArtifactCorrupt: it does not load; what served goes on.
            NotReady: it takes long, and the load goes on; or there is no room for it; or another worker could not load it, which
                it tries again.
        """
        route = self._router.table.table.route(name)
        wanted = [(route.model, one) for one in ((version,) if version else route.needs())]
        for key in wanted:
            await self._load_here(key)
        revision = self._router.table.table.revision
        cold = self._cold_elsewhere()
        loose = [key for key in wanted if key in cold or not self._router.is_kept(key)]
        if loose:
            self._refuse_without_room(loose)
            held = [PutHold(*key) for key in loose]
            revision = await self._committed(principal, "version.load", route.model, held)
        await self._wait(lambda status: status.settled >= revision, _LOAD_S, "loaded it")
        cold = self._cold_elsewhere()
        for key in wanted:
            if key in cold:
                raise NotReady(
                    f"worker {cold[key]} could not load version {key[1]!r} of {key[0]!r}, and tries again",
                    hint="its lines in the journal say why",
                )

    async def _load_here(self, key: Pair) -> None:
        if key not in self._router.table.pools:
            self._loader.forgive(*key)
            await self._pinned.pool(*key, within_s=_LOAD_S)

    def _refuse_without_room(self, keys: Sequence[Pair]) -> None:
        """Refuse what would be kept beyond the memory that there is."""
        if len(self._router.table.table.holds) + len(keys) > _HOLDS_MAX:
            raise NotReady(f"{_HOLDS_MAX:,} versions are held already", hint="unload some")
        if not self._shelf.has_room_to_keep(keys):
            raise NotReady(
                "what is kept leaves no room to hold it", hint="unload others, or raise serving.model_memory_bytes_max"
            )

    async def unload(self, name: str, version: str, principal: Principal) -> None:
        """Have every worker let a version go that no route needs; one that is not warm stays as it is.

        Raises:
            UnknownRoute, UnknownVersion: there is none.
            VersionNeeded: a route needs it, or, without a version, the name answers requests.
            NotReady: a worker has not let it go in time, and will when it follows.
        """
        route = self._router.table.table.route(name)
        if not version:
            needed = ", ".join(map(repr, route.needs()))
            raise VersionNeeded(
                f"{name!r} is served and needs the versions {needed}",
                hint="name a version that no route needs in parameters.version, or change the route through the admin API",
            )
        key = (route.model, version)
        if self._router.is_needed(key):
            needing, hint = self._needing(*key)
            raise VersionNeeded(f"version {version!r} of {route.model!r} is needed by {needing}", hint=hint)
        if key not in self._router.table.pools and key not in self._router.table.table.holds:
            await self._pinned.version(*key)
        revision = await self._committed(principal, "version.unload", route.model, [DropHold(*key)])
        await self._wait(lambda status: status.revision >= revision, _UNLOAD_S, "let it go")

    def has_failed(self, model: str, version: str) -> bool:
        """Return whether the version's last load failed, so that a request would be refused or wait for another try."""
        return self._loader.has_failed(model, version)

    def retry_in_s(self, model: str, version: str) -> float:
        """Return for how long a version that did not load is not tried again; 0 when it may be, or is being."""
        return self._loader.retry_in_s(model, version)

    async def _committed(self, principal: Principal, action: str, model: str, writes: Sequence[PutHold | DropHold]) -> Revision:
        """Commit holds and return the table's revision with them."""
        subject = f"version:{model}/{writes[0].version}" if len(writes) == 1 else f"model:{model}"
        change = Change(principal.name, action, subject, "", tuple(writes))
        committed = await asyncio.get_running_loop().run_in_executor(self._thread, self._registry.commit, change)
        return committed.table_revision

    async def _wait(self, is_done: Callable[[WorkerStatus], bool], within_s: float, what: str) -> None:
        """Wait until every worker reported what is waited for.

        Raises:
            NotReady: one has not in time.
        """
        await self._router.reported(lambda: all(map(is_done, self._statuses())), within_s=within_s)
        late = [status.worker for status in self._statuses() if not is_done(status)]
        if late:
            raise NotReady(f"worker {late[0]} has not {what} within {within_s:g} s", hint="it will as soon as it follows")

    def _cold_elsewhere(self) -> dict[Pair, str]:
        """Return what another worker should keep warm and could not load, and which one."""
        others = [status for status in self._statuses() if status.worker != self._router.worker]
        return {(cold.model, cold.version): status.worker for status in others for cold in status.cold}

    def _statuses(self) -> list[WorkerStatus]:
        """Return what every worker reported last; one that has not reported stands at revision 0."""
        known = self._router.statuses
        return [known.get(worker) or WorkerStatus(worker, Revision(0), 0, "", 0.0) for worker in self._workers]

    def names(self) -> list[str]:
        """Return every name that can be asked for, in order."""
        table = self._router.table.table
        return sorted({*table.routes, *table.champions})

    def warm_versions(self, model: str) -> list[str]:
        """Return the versions of a model that are warm here, in order of name."""
        return sorted(version for named, version in self._shelf if named == model)

    def close(self) -> None:
        """List and commit nothing any more."""
        self._listing.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _names(self) -> Iterator[tuple[str, str]]:
        """Yield every name, in order, with its model."""
        table = self._router.table.table
        for name in self.names():
            yield name, table.routes[name].model if name in table.routes else name

    def _standing(self, model: str, version: str, state: VersionState) -> Json:
        if (model, version) in self._shelf:
            return {"state": "READY", "reason": ""}
        if self._loader.is_loading(model, version):
            return {"state": "LOADING", "reason": ""}
        if state is VersionState.RETIRED:
            return {"state": "UNAVAILABLE", "reason": "retired"}
        return {"state": "UNAVAILABLE", "reason": "failed to load" if self._loader.has_failed(model, version) else "not loaded"}

    def _needing(self, model: str, version: str) -> tuple[str, str]:
        """Return what needs a version, for people, and what they may do about it."""
        table = self._router.table.table
        routes = [route.name for route in table.routes.values() if route.model == model and version in route.needs()]
        if routes:
            return f"the route {min(routes)!r}", "change the route through the admin API first"
        if table.champions.get(model) == version:
            return "its model, as the champion", "make another version the champion first"
        return "the change that was prepared last", "it is let go by itself as soon as another change is prepared"


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
