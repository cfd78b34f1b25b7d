"""Follows the registry: swaps the route table at once, loads what is kept, prepares what a proposal asks for, and reports.

A committed table is never held back by a load: until a version is warm its variant's requests go to the fallback. Reading the
registry blocks and happens in a thread; everything else on the event loop. When the registry cannot be read, serving goes on
with the last table and says so in a metric.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.access import Key
from gateway.core.audit import AuditEntry
from gateway.core.changes import COLD_MAX, Cold, Proposal, WorkerStatus
from gateway.core.errors import GatewayError, StoreFailed
from gateway.core.models import Version
from gateway.core.routes import Revision, RouteTable
from gateway.metrics.metric import cell
from gateway.metrics.places import ROOM_SHARE, place_of, places
from gateway.metrics.serving import REGISTRY_FAILURES, TABLE_REVISION
from gateway.ports.clock import Clock
from gateway.ports.metrics import MetricsBank
from gateway.ports.stores import RegistryStore
from gateway.serving.loader import Loader
from gateway.serving.shelf import NOTHING, Pair, Shelf
from gateway.serving.table import Bench, ServedTable, kept_versions, named_versions

_log = logging.getLogger(__name__)
_FOLLOW_S: Final = 1.0  # longest wait for news; what failed to load or to be reported is tried again as often
_RETRY_S: Final = 0.5  # after the registry failed
_KEYS_PAGE: Final = 1_000
_REASON_LENGTH_MAX: Final = 1_000  # of a failure that is reported; some libraries print the whole graph


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which versions stay warm although nobody calls them (see `kept_versions`)."""

    names_max: int
    pins: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Picture:
    """What one reading of the registry found; `number` is where the next wait starts."""

    number: int
    table: RouteTable
    proposal: Proposal | None
    keys: dict[str, Key]
    statuses: dict[str, WorkerStatus]
    head: AuditEntry | None


class Router:
    """The route table of one worker.

    Attributes:
        worker: The name of this one.
        table: What requests are routed by; empty before the first reading.
        keys: Tokens' digests → keys, as last read.
        statuses: What each worker reported, as last read.
        has_read: Set once a table was read.
        has_settled: Set once everything that is kept of the first table was loaded, or failed to.
    """

    def __init__(
        self,
        *,
        worker: str,
        registry: RegistryStore,
        loader: Loader,
        shelf: Shelf,
        keeping: Keeping,
        bench: Bench,
        anchor: Callable[[int, str], None],
        metrics: MetricsBank,
        clock: Clock,
    ) -> None:
        """Prepare.

        Args:
            anchor: Called about once a second with number and hash of the audit log's newest entry.
        """
        self.table = ServedTable(RouteTable(), NOTHING, shelf, bench)
        self.keys: dict[str, Key] = {}
        self.statuses: Mapping[str, WorkerStatus] = {}
        self.worker = worker
        self._registry = registry
        self._loader = loader
        self._bench = bench
        self._anchor = anchor
        self._clock = clock
        self._shelf = shelf
        self._keeping = keeping
        self._wanted: set[Pair] = set()  # named by the table or the proposal
        self._kept: set[Pair] = set()
        self._kept_by_table: set[Pair] = set()  # without what only the proposal needs
        self._kept_unheld: set[Pair] = set()  # without what is only held
        self._loads: dict[Pair, asyncio.Task[None]] = {}
        self._proposal: Proposal | None = None
        self._prepared = 0
        self._cold: dict[Pair, Cold] = {}  # of what is kept: why the last load failed
        self._settled = Revision(0)
        self._reported: WorkerStatus | None = None
        self._report_due = asyncio.Event()
        self.has_read = asyncio.Event()
        self.has_settled = asyncio.Event()
        self._news = asyncio.Event()  # set, and replaced, with each reading
        self._threads = ThreadPoolExecutor(2, "registry")  # one waits for news, one reports
        self._revision = cell(metrics, TABLE_REVISION)
        self._failures = cell(metrics, REGISTRY_FAILURES)
        shelf.changed = self._forget

    @property
    def is_ready(self) -> bool:
        """Whether a table was read and what is kept of it can answer."""
        return self.has_read.is_set() and self.table.is_ready()

    def is_needed(self, key: Pair) -> bool:
        """Return whether the table or the last proposal names a version, so that nobody may let it go.

        A hold on one that is not kept warm without it, because there are many names, may be taken back all the same.
        """
        return key in (self._kept_unheld if key in self.table.table.holds else self._wanted)

    def is_kept(self, key: Pair) -> bool:
        """Return whether every worker keeps a version warm by the table alone, so that nobody need hold it."""
        return key in self._kept_by_table

    async def reported(self, is_done: Callable[[], bool], *, within_s: float) -> None:
        """Wait until `is_done`, which is asked again whenever workers may have reported, or until the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not is_done():
                    await self._news.wait()

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
            status = self._status()
            if status == self._reported:  # a report is news itself, and would wake every follower for nothing
                continue
            report = replace(status, seen_at_s=self._clock.now_s())
            try:
                await loop.run_in_executor(self._threads, self._registry.report, report)
                self._reported = status
            except GatewayError:
                self._failures.add(1.0)  # the follower asks again after its next reading

    def close(self) -> None:
        """Start no further reading."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._loader.close()

    def _status(self) -> WorkerStatus:
        """Return what to report, but for the time."""
        needs = self._proposal.needs if self._proposal else ()
        failures = [cold for key in needs if (cold := self._cold.get(key)) is not None]
        return WorkerStatus(
            worker=self.worker,
            revision=self.table.table.revision,
            prepared=self._prepared,
            failure=" ".join((failures[0].model, f"{failures[0].version}:", failures[0].reason)) if failures else "",
            seen_at_s=0.0,
            settled=self._settled,
            cold=tuple(self._cold.values())[:COLD_MAX],
        )

    def _read(self, last: _Picture | None) -> _Picture:
        """Wait for news and read everything, in a thread; return what was read last when there is nothing new."""
        number = 0
        if last is not None:
            number = self._registry.follow(last.number, _FOLLOW_S)
            if number == last.number:
                return last
        statuses = {status.worker: status for status in self._registry.workers()}
        head = next(iter(self._registry.audit(limit=1, newest_first=True)), None)
        return _Picture(number, self._registry.table(), self._registry.proposal(), self._all_keys(), statuses, head)

    def _all_keys(self) -> dict[str, Key]:
        keys: dict[str, Key] = {}
        after = ""
        while page := self._registry.keys(after, _KEYS_PAGE):
            keys.update((key.token_sha256, key) for key in page)
            after = page[-1].id
        return keys

    def _apply(self, picture: _Picture) -> None:
        self.keys, self.statuses = picture.keys, picture.statuses
        if picture.head is not None:
            self._anchor(picture.head.seq, picture.head.hash)
        proposal = picture.proposal
        is_new = not self.has_read.is_set() or picture.table.revision != self.table.table.revision
        if proposal is not None and (self._proposal is None or proposal.id != self._proposal.id):
            self._proposal = proposal
            self._cold = {key: cold for key, cold in self._cold.items() if key not in proposal.needs}
            is_new = True
        if is_new:
            self._swap(picture.table)
        self.has_read.set()
        for key in self._kept - self._shelf.keys() - self._loads.keys():
            version = picture.table.versions.get(key)
            self._loads[key] = asyncio.get_running_loop().create_task(self._load(key, version))
        self._look_at_loads()
        self._report_due.set()
        self._news.set()
        self._news = asyncio.Event()

    def _swap(self, table: RouteTable) -> None:
        """Answer with a table from now on, and let go what neither it nor the proposal names any more."""
        proposed = set(self._proposal.needs if self._proposal else ())
        wanted = named_versions(table) | proposed
        before = self.table.table
        for key, revision in table.holds.items():
            if revision > before.revision:
                self._loader.forgive(*key)  # an operator says that it may load now
        kept = kept_versions(table, names_max=self._keeping.names_max, pins=self._keeping.pins)
        self._kept_unheld = kept | proposed
        self._kept_by_table = kept | table.holds.keys()
        self._kept = self._kept_by_table | proposed
        self._shelf.keep(self._kept)
        self._cold = {key: cold for key, cold in self._cold.items() if key in self._kept}
        self.table = ServedTable(table, self._kept, self._shelf, self._bench)
        self._revision.set(table.revision)
        let_go = {key for key, revision in table.dropped.items() if revision > before.revision} - wanted
        for key in (self._wanted - wanted | let_go) - self._kept:
            self._shelf.drop(key)  # what a caller named alone is not among these, unless somebody let it go
        self._wanted = wanted
        self._make_room(table)

    def _make_room(self, table: RouteTable) -> None:
        """Forget the numbers of versions that left, once half of the room for numbers is taken: 0.2 s, in hundreds of changes."""
        bank = self._bench.metrics
        if bank.share_taken <= ROOM_SHARE:
            return
        here = places(table) | self._shelf.keys()
        try:
            bank.forget(lambda sample: (place := place_of(sample)) is not None and place not in here)
        except StoreFailed as error:
            _log.warning("numbers were not forgotten", extra={"action": "go on", "reason": str(error)})

    def _forget(self, key: Pair) -> None:
        """Have the routes that need a version see that it came or went."""
        self.table.forget(key)
        if key in self._shelf and self._cold.pop(key, None) is not None:
            self._report_due.set()

    async def _load(self, key: Pair, version: Version | None) -> None:
        """Load one version that is kept."""
        failure = ""
        try:
            if version is None:
                version = await asyncio.get_running_loop().run_in_executor(self._threads, self._registry.version, *key)
            await self._loader.load(version)
        except GatewayError as error:
            failure = str(error)[:_REASON_LENGTH_MAX]
        finally:
            del self._loads[key]
        if not failure:
            self._cold.pop(key, None)
            if key not in self._kept | self._wanted:
                self._shelf.drop(key)
        elif key in self._kept:
            self._cold[key] = Cold(*key, failure)
        self._look_at_loads()
        self._report_due.set()

    def _look_at_loads(self) -> None:
        """Note that the proposal is prepared for, or cannot be, once none of its loads is under way."""
        if not self._loads:
            self.has_settled.set()
            self._settled = self.table.table.revision
        if self._proposal is not None and not any(key in self._loads for key in self._proposal.needs):
            self._prepared = self._proposal.id
