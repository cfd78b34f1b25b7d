"""Follows the registry: swaps the route table at once, loads what it lacks, prepares what a proposal asks for, and reports.

A committed table is never held back by a load: until a version is warm its variant's requests go to the fallback. Reading the
registry blocks and happens in a thread; everything else on the event loop. When the registry cannot be read, serving goes on
with the last table and says so in a metric.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from gateway.core.access import Key
from gateway.core.changes import Proposal, WorkerStatus
from gateway.core.errors import GatewayError
from gateway.core.models import Version
from gateway.core.routes import Revision, RouteTable
from gateway.metrics import REGISTRY_FAILURES, TABLE_REVISION, WARM_VERSIONS, cell
from gateway.ports import Clock, MetricsBank, RegistryStore
from gateway.serving.loader import Loader
from gateway.serving.pools import Pool
from gateway.serving.table import Bench, ServedTable, needed_versions

_log = logging.getLogger(__name__)
_FOLLOW_S: Final = 1.0  # longest wait for news; what failed to load or to be reported is tried again as often
_RETRY_S: Final = 0.5  # after the registry failed
_KEYS_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Picture:
    """What one reading of the registry found; `number` is where the next wait starts."""

    number: int
    table: RouteTable
    proposal: Proposal | None
    keys: dict[str, Key]


class Router:
    """The route table of one worker.

    Attributes:
        table: What requests are routed by; empty before the first reading.
        keys: Tokens' digests → keys, as last read.
        has_read: Set once a table was read.
        has_settled: Set once everything that the first table needs was loaded, or failed to.
    """

    def __init__(
        self, *, worker: str, registry: RegistryStore, loader: Loader, bench: Bench, metrics: MetricsBank, clock: Clock
    ) -> None:
        self.table = ServedTable(RouteTable(), {}, bench)
        self.keys: dict[str, Key] = {}
        self._worker = worker
        self._registry = registry
        self._loader = loader
        self._bench = bench
        self._clock = clock
        self._pools: dict[tuple[str, str], Pool] = {}
        self._loads: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._proposal: Proposal | None = None
        self._prepared = 0
        self._failed: dict[tuple[str, str], str] = {}  # of the proposal's needs: why the last load failed
        self._reported: tuple[int, int, str] | None = None
        self._report_due = asyncio.Event()
        self.has_read = asyncio.Event()
        self.has_settled = asyncio.Event()
        self._threads = ThreadPoolExecutor(2, "registry")  # one waits for news, one reports
        self._revision = cell(metrics, TABLE_REVISION)
        self._warm_versions = cell(metrics, WARM_VERSIONS)
        self._failures = cell(metrics, REGISTRY_FAILURES)

    @property
    def is_ready(self) -> bool:
        """Whether a table was read and each of its routes can answer."""
        return self.has_read.is_set() and self.table.is_ready()

    @property
    def needed(self) -> set[tuple[str, str]]:
        """(model, version) of all that the table and the newest proposal need."""
        return needed_versions(self.table.table) | set(self._proposal.needs if self._proposal else ())

    def adopt(self, pool: Pool) -> bool:
        """Take a pool that was loaded elsewhere into the table if that needs it; return whether it does."""
        key = (pool.version.model, pool.version.version)
        is_needed = key in self.needed
        if is_needed and key not in self._pools:
            self._pools[key] = pool
            self._failed.pop(key, None)
            self._swap(self.table.table)
            self._report_due.set()
        return is_needed

    def forget(self, pool: Pool) -> None:
        """Hold a pool no longer that only callers needed."""
        self.table.forget(pool)

    async def follow(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        last: _Picture | None = None
        while True:
            try:
                last = await loop.run_in_executor(self._threads, self._read, last)
                self._apply(last)
            except GatewayError as error:
                self._failures.add(1.0)
                _log.warning("the registry was not read", extra={"action": "retry", "reason": str(error)})
                await asyncio.sleep(_RETRY_S)

    async def report(self) -> None:
        """Report each change of what this worker answers with, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._report_due.wait()
            self._report_due.clear()
            revision, prepared, failure = status = self._status()
            if status == self._reported:  # a report is news itself, and would wake every follower for nothing
                continue
            report = WorkerStatus(self._worker, revision, prepared, failure, self._clock.now_s())
            try:
                await loop.run_in_executor(self._threads, self._registry.report, report)
                self._reported = status
            except GatewayError:
                self._failures.add(1.0)  # the follower asks again after its next reading

    def close(self) -> None:
        """Start no further reading."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._loader.close()

    def _status(self) -> tuple[Revision, int, str]:
        return self.table.table.revision, self._prepared, next(iter(self._failed.values()), "")

    def _read(self, last: _Picture | None) -> _Picture:
        """Wait for news and read everything, in a thread; return what was read last when there is nothing new."""
        number = 0
        if last is not None:
            number = self._registry.follow(last.number, _FOLLOW_S)
            if number == last.number:
                return last
        return _Picture(number, self._registry.table(), self._registry.proposal(), self._all_keys())

    def _all_keys(self) -> dict[str, Key]:
        keys: dict[str, Key] = {}
        after = ""
        while page := self._registry.keys(after, _KEYS_PAGE):
            keys.update((key.token_sha256, key) for key in page)
            after = page[-1].id
        return keys

    def _apply(self, picture: _Picture) -> None:
        self.keys = picture.keys
        proposal = picture.proposal
        if proposal is not None and (self._proposal is None or proposal.id != self._proposal.id):
            self._proposal = proposal
            self._failed = {}
        needed = needed_versions(picture.table) | set(self._proposal.needs if self._proposal else ())
        unneeded = self._pools.keys() - needed
        for key in unneeded:
            del self._pools[key]  # requests that hold it finish; then its instance closes
        if unneeded or not self.has_read.is_set() or picture.table.revision != self.table.table.revision:
            self._swap(picture.table)
        self.has_read.set()
        for key in needed - self._pools.keys() - self._loads.keys():
            version = picture.table.versions.get(key)
            self._loads[key] = asyncio.get_running_loop().create_task(self._load(key, version))
        self._look_at_loads()
        self._report_due.set()

    def _swap(self, table: RouteTable) -> None:
        self.table = ServedTable(table, dict(self._pools), self._bench)
        self._revision.set(table.revision)
        self._warm_versions.set(len(self._pools))

    async def _load(self, key: tuple[str, str], version: Version | None) -> None:
        """Load one version that the table or the proposal needs, and take it into the table."""
        failure = ""
        try:
            if version is None:
                version = await asyncio.get_running_loop().run_in_executor(self._threads, self._registry.version, *key)
            self._pools[key] = await self._loader.load(version)
        except GatewayError as error:
            failure = f"{key[0]} {key[1]}: {error}"
        finally:
            del self._loads[key]
        if not failure:
            self._failed.pop(key, None)
            self._swap(self.table.table)
        elif self._proposal is not None and key in self._proposal.needs:
            self._failed[key] = failure
        self._look_at_loads()
        self._report_due.set()

    def _look_at_loads(self) -> None:
        """Note that the proposal is prepared for, or cannot be, once none of its loads is under way."""
        if not self._loads:
            self.has_settled.set()
        if self._proposal is not None and not any(key in self._loads for key in self._proposal.needs):
            self._prepared = self._proposal.id
