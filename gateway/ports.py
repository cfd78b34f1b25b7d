"""Every boundary of the program, on one page.

The docstring of a method is its contract: order, durability, idempotence, blocking, errors. Every adapter of a port passes the
same suite in `tests/conformance`. Unless a method says otherwise it blocks, and an event loop calls it in a thread.
No driver's error crosses a port: an adapter raises a `PortFault` or a `ModelFault` from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol, runtime_checkable

from gateway.core.access import Key
from gateway.core.audit import AuditEntry
from gateway.core.changes import Automation, Change, Committed, DecisionId, Proposal, Quarantine, WorkerStatus
from gateway.core.fields import Json
from gateway.core.models import Conversion, Digest, Version
from gateway.core.notices import Message
from gateway.core.poison import DeadRun, Suspicions
from gateway.core.records import Anchor, Cursor, Offset, Page, Record
from gateway.core.rollouts import Rollout
from gateway.core.routes import Revision, RouteTable
from gateway.core.tensors import Array
from gateway.core.traces import Span


class Clock(Protocol):
    """The only time in the program."""

    def now_s(self) -> float:
        """Return wall time, seconds since the epoch. May step."""

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary moment. Never falls."""


class MemoryMeter(Protocol):
    """The memory of this process. Called from any thread; blocks for less than a millisecond."""

    def heap_bytes(self) -> int:
        """Return what is allocated now, without what was freed and not yet given back."""

    def trim(self) -> None:
        """Give back to the system what was freed."""


class LoadLock(Protocol):
    """Held by the worker whose turn it is to load, so that the others answer undisturbed. Never blocks."""

    def try_take(self) -> bool:
        """Take it and return True, unless another process holds it; the same process may take it several times."""

    def release(self) -> None:
        """Give back what was taken once; a process that dies gives back everything."""


class Instance(Protocol):
    """One loaded copy of a version."""

    @property
    def concurrency(self) -> int:
        """How many threads may be inside `predict` at once."""

    @property
    def provider(self) -> str:
        """What it computes on, `cpu` or an accelerator, though the version may name a better one that is not there."""

    @property
    def runtime_version(self) -> str:
        """Of the library, e.g. `1.31.1`; stands in every record."""

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name.

        Arrays are C-contiguous with the signature's datatypes; the outputs have not been checked against the signature.

        Raises:
            PredictFailed: the runtime raised.
        """

    def close(self) -> None:
        """Give the memory back; the instance is not used again."""


class RemoteRun(Protocol):
    """A prediction that another process is at. Ended once: by an `answer`, or else by `finish`.

    Attributes:
        deadline_s: After which `finish` is to be asked, on the clock's monotonic time.
    """

    deadline_s: float

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when there is something to ask for."""

    def answer(self) -> dict[str, Array] | None:
        """Return every output by name; None where `finish` has to be asked. Once; never blocks."""

    def finish(self) -> dict[str, Array]:
        """Wait for the answer, or return again what `answer` returned; raises as `Instance.predict` does. Blocks."""


@runtime_checkable
class RemoteInstance(Instance, Protocol):
    """An instance whose work another process does, so that no thread is needed to wait for it."""

    def begin(self, inputs: Mapping[str, Array]) -> RemoteRun | None:
        """Begin a prediction; None where `predict` has to be asked. Never blocks."""


class Runtime(Protocol):
    """Loads artifacts of one kind."""

    def load(self, path: PurePath, version: Version) -> Instance:
        """Return an instance, not yet warm.

        Raises:
            LoadFailed: the artifact is not loadable.
        """


class Validator(Protocol):
    """Runs an uploaded version where it can harm nothing."""

    def validate(
        self,
        artifact: PurePath,
        reference: PurePath | None,
        version: Version,
        *,
        before: Sequence[tuple[Version, PurePath]] = (),
    ) -> Version:
        """Return `version` with signature, profile, runtime version and cost filled in.

        Runs in a process of its own with a deadline and a memory bound: loads the artifact, reads its signature, runs it on the
        reference sample, checks the outputs, measures the cost of a row.

        Args:
            reference: Parquet, CSV or JSON Lines, by suffix; None when none was sent.
            version: As far as the metadata says.
            before: The members, each with its artifact, that make the version a chain; it is run as a whole then.

        Raises:
            NotValid: with the reason; also when it ran out of time or memory or killed its process.
        """

    def convert(
        self, artifact: PurePath, reference: PurePath, version: Version, conversion: Conversion, into: PurePath
    ) -> Version:
        """Validate a pickled version, convert it, and validate what came out; return that ONNX version, with its own digest.

        Its lineage says what it was converted from, how far the answers on the reference differ, and the speed-up.

        Args:
            into: A staged file that gets the ONNX model.

        Raises:
            NotValid: as of `validate`; there is no converter for it; the answers differ by more than `conversion` allows.
        """

    def recompute(
        self, artifact: PurePath, version: Version, prediction: Json, *, members: Sequence[tuple[Version, PurePath]] = ()
    ) -> Json:
        """Run a version on a logged prediction's inputs, at the recorded place in a batch of the recorded size, and compare.

        Args:
            prediction: As its line in the log; answered by this version.
            members: Of a chain, each with its artifact.

        Returns:
            `runtime_version` of the library now, and `outputs`: of each recorded one its `name`, `elements`, how many of them are
            `unequal` in any bit, and the `largest_difference` (null for text and other shapes, text when it is infinite).

        Raises:
            NotValid: it does not load or run any more, or it ran out of time or memory or killed its process.
        """


class ArtifactStore(Protocol):
    """Artifacts by digest."""

    def put(self, staged: PurePath, digest: Digest) -> None:
        """Move a complete file into the store; durable when it returns. Putting the same digest again changes nothing.

        Raises:
            ArtifactCorrupt: the file's bytes do not have that digest.
            StoreFailed: it could not be written.
        """

    def staging(self) -> PurePath:
        """Return the path of a new empty file on the store's own file system, for an upload."""

    def path(self, digest: Digest) -> PurePath:
        """Return where the artifact lies, after verifying its bytes.

        Raises:
            ArtifactCorrupt: it is missing or its bytes changed.
        """

    def backup(self, to: PurePath) -> None:
        """Copy every artifact to a new directory while more are put."""


class RegistryStore(Protocol):
    """Models, versions, routes, rollouts, keys and the audit log. Safe to share between threads and processes."""

    def models(self, after: str = "", limit: int = 100) -> Sequence[tuple[str, str]]:
        """Return (model, champion's version) in order of name, after a name."""

    def versions(self, model: str, after: str = "", limit: int = 100) -> Sequence[Version]:
        """Return a model's versions in the order they were registered, after a version's name; retired ones too."""

    def version(self, model: str, version: str) -> Version:
        """Return one version.

        Raises:
            UnknownVersion: there is none.
        """

    def followers(self, model: str, version: str, limit: int = 10) -> Sequence[tuple[str, str]]:
        """Return (model, version) of chains, not retired, in which a version is a member before their own artifact."""

    def table(self) -> RouteTable:
        """Return one consistent route table with every version its routes and champions need."""

    def rollout(self, id: str) -> Rollout:
        """Return one rollout.

        Raises:
            UnknownSubject: there is none.
        """

    def rollouts(self, route: str = "", *, open_only: bool = False, limit: int = 100) -> Sequence[Rollout]:
        """Return rollouts, the newest first; of one route, or of all."""

    def quarantines(self) -> Sequence[Quarantine]:
        """Return every quarantine ever set, with its strikes; those with `until_s` in the past are over."""

    def automation(self) -> Automation:
        """Return whether automatic changes are on."""

    def keys(self, after: str = "", limit: int = 100) -> Sequence[Key]:
        """Return keys in order of id, after an id."""

    def audit(self, after: int = 0, limit: int = 100, *, newest_first: bool = False) -> Sequence[AuditEntry]:
        """Return entries after the number `after`; newest first: the last `limit` before `after` (0 = from the end)."""

    def commit(
        self, change: Change, *, expected_revision: Revision | None = None, decision_id: DecisionId | None = None
    ) -> Committed:
        """Apply every write of `change` and append its audit entry, in one transaction; durable when it returns.

        A route's revision grows by one with each `PutRoute`; a dropped and re-created route goes on counting.
        A decision id commits at most once: a second call returns what the first did, with `is_repeat`, and writes nothing.

        Args:
            expected_revision: Of `change.route`; 0 means that the route must not exist; None compares nothing.

        Raises:
            RevisionConflict: the route moved on.
            VersionExists: the version's name is taken.
            StoreFailed: nothing was written.
        """

    def propose(self, needs: Sequence[tuple[str, str]]) -> Proposal:
        """Tell every worker to load and warm (model, version) pairs that a coming change needs."""

    def proposal(self) -> Proposal | None:
        """Return the newest proposal."""

    def report(self, status: WorkerStatus) -> None:
        """Say how far a worker is; the last report of a worker stands."""

    def workers(self) -> Sequence[WorkerStatus]:
        """Return the last report of each worker."""

    def follow(self, after: int, timeout_s: float) -> int:
        """Wait until anything was committed, proposed or reported since the number `after`, and return the number now.

        Returns `after` itself when `timeout_s` passed first. A change made by another process is seen within 250 ms,
        usually within 1 ms.
        """

    def backup(self, to: PurePath) -> None:
        """Write a consistent copy of the registry to a new file while it is in use."""

    def close(self) -> None:
        """Release everything; a waiting `follow` returns."""


class PredictionLogWriter(Protocol):
    """One worker's end of the log. Used by one thread at a time; `append` is fast enough for an event loop."""

    @property
    def resumed_s(self) -> float:
        """The time of the stream's last record when it was opened, which no later record may precede; 0 without one."""

    def append(self, records: Sequence[Record]) -> Offset:
        """Write records in order, all of them or none, and return the offset after the last.

        When it returns they survive the death of this process; for power loss see `sync`.

        Raises:
            LogFull: no room (the disk, or the configured size); nothing of the call stays in the log.
            LogFailed: it could not be written; nothing of the call stays in the log.
        """

    def sync(self) -> None:
        """Make everything appended so far survive power loss. May take milliseconds."""

    def close(self) -> None:
        """Close the stream's open segment."""


class PredictionLogReader(Protocol):
    """The other end, from any process."""

    def streams(self) -> Sequence[str]:
        """Return the names of all streams, one per worker."""

    def read(self, stream: str, after: Offset, limit: int = 1000) -> Page:
        """Return the next records from an offset, at least once and in order; an empty page when there is nothing new.

        Raises:
            LogFailed: the offset is before the oldest segment kept, beyond the end or inside a line (a power loss can take
                records that a consumer has seen; it goes on from the next line, or from `end`), or a line in the middle cannot
                be read.
        """

    def read_before(self, stream: str, before: Offset, limit: int = 1000) -> Page:
        """Return the last records before an offset, in order; the page's `next` is what to read before in the next call.

        A page may hold fewer records than `limit`, even none; nothing older is kept when `next` is `before` itself.

        Raises:
            LogFailed: a line cannot be read.
        """

    def oldest(self, stream: str) -> Offset:
        """Return the first offset still kept."""

    def end(self, stream: str) -> Offset:
        """Return the offset after the last complete record."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed part of one stream that never changes again."""

    stream: str
    first: Offset
    next: Offset
    path: PurePath
    closed_at_s: float


class SegmentStore(Protocol):
    """The log seen by the archive: closed segments, and the right to remove them."""

    def closed(self, stream: str) -> Sequence[Segment]:
        """Return the closed segments of a stream, the oldest first."""

    def remove(self, segment: Segment) -> None:
        """Remove a segment; removing it again changes nothing."""

    def free_bytes(self) -> int:
        """Return how much may still be written to the file system that holds the log."""

    def repair(self) -> Sequence[tuple[str, int]]:
        """Cut a torn last line off every stream; return (stream, bytes cut). Only while no writer is open."""

    def backup(self, to: PurePath) -> Cursor:
        """Copy every segment up to its last complete append, while writers append; return where the copy of each stream begins.

        What a directory of that name held before is replaced. A segment removed meanwhile is left out, with all before it.
        """


class CheckpointStore(Protocol):
    """A consumer's position and state, saved together or not at all."""

    def load(self, consumer: str) -> tuple[Cursor, bytes] | None:
        """Return what was last saved."""

    def save(self, consumer: str, cursor: Cursor, state: bytes) -> None:
        """Replace what was saved; atomic, durable when it returns."""

    def backup(self, to: PurePath) -> None:
        """Write a consistent copy to a new file while it is in use."""


class BackupStore(Protocol):
    """Where one backup lies."""

    def begin(self) -> PurePath:
        """Make it and return its directory.

        Raises:
            StoreFailed: there is something in it already.
        """

    def seal(self, taken_at_s: float) -> int:
        """Note what it holds, so that it counts as a backup; durable when it returns. Return its bytes."""

    def restore(self, to: PurePath) -> int:
        """Copy it to a directory that is new or empty, which shows all of it or nothing; return the files.

        Raises:
            StoreFailed: it is no whole backup, a byte of it changed, or the directory is not empty.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """What a run is charged to when its process dies."""

    model: str
    route: str
    revision: int
    variant: str
    version: str
    digest: str
    runtime_version: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A prediction that was running when its worker died.

    Attributes:
        was_hung: Whether the watchdog killed the worker, rather than the worker dying by itself.
    """

    prediction_id: str
    place: Place
    was_hung: bool


class SuspicionStore(Protocol):
    """What all workers remember of inputs that end processes."""

    def news(self) -> Suspicions | None:
        """Return everything remembered, or None when that is what it was at the last call. Fast enough for an event loop.

        Raises:
            StoreFailed: it cannot be read.
        """

    def change(self, change: Callable[[Suspicions], Suspicions]) -> None:
        """Replace what is remembered, in one step among all processes; survives their death.

        Raises:
            StoreFailed: nothing was written.
        """


class Sender(Protocol):
    """Delivers notices to one channel. Blocks for at most 30 s."""

    def send(self, message: Message) -> None:
        """Deliver a message; the same id may come twice.

        Raises:
            DeliveryFailed: it was not taken, or nobody knows whether it was.
        """


class InFlight(Protocol):
    """What a serving worker is running right now, kept where it outlives the worker. Never blocks."""

    def turned(self) -> None:
        """Say that the event loop turns; the supervisor's watchdog looks at this."""

    def bind(self, place: Place) -> int:
        """Return a number for a place, once for each, when the route table changes."""

    def enter(self, place: int, prediction_ids: Sequence[bytes], fingerprints: Sequence[bytes] = ()) -> int:
        """Say that a run begins; each id is a UUID's 16 bytes, of which the first 64 are kept. Return the run's number.

        Args:
            fingerprints: Of its inputs, 16 bytes each, of which the first 64 are kept; none unless they are watched.
        """

    def forget(self, run: int, prediction_id: bytes) -> None:
        """Say that one id of a run is answered otherwise: its record is no longer the successor's to write."""

    def leave(self, run: int) -> None:
        """Say that the run is over; its records are written next, before any of its answers leaves."""

    def oldest_s(self) -> float:
        """Return when the oldest run that goes on began, on the clock's monotonic time; infinity when none does."""

    def close(self) -> None:
        """Say that the worker stops in order: runs that still go on have nobody waiting, and none is noted any more."""

    def left_behind(self) -> Sequence[Interrupted]:
        """Return what the worker before this one was running when it died, once; empty after a clean stop."""

    def runs_left(self) -> Sequence[DeadRun]:
        """Return the runs that went on when the worker before this one died, once, also those whose ids were all forgotten."""


class LoopWatch(Protocol):
    """The supervisor's view of a worker's `InFlight`."""

    def last_turn_s(self) -> float:
        """Return the monotonic time at which the worker's event loop last turned; 0 when it never did."""

    def mark_hung(self) -> None:
        """Note, for the successor, that the worker is killed because its loop stood still."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a detector found in one update.

    Attributes:
        value: The detector's estimate of its signal now.
        alarm_count: How many of the update's values raised the alarm.
    """

    value: float
    alarm_count: int


class Detector(Protocol):
    """A change detector over one signal in [0, 1]. Never sees NaN; the caller maps and counts what is missing."""

    def update(self, values: Sequence[float]) -> Reading:
        """Take values in order, at least one, and return the reading; the same as one by one, at a fraction of the cost."""

    def state(self) -> bytes:
        """Return everything needed to go on exactly."""

    def restore(self, state: bytes) -> None:
        """Go on from a state of the same kind of detector."""


class ReadingsView(Protocol):
    """What control shows of the monitor. Losing one loses a picture, never a decision."""

    def latest(self) -> Json | None:
        """Return the last picture, or None."""


class Readings(ReadingsView, Protocol):
    """The monitor's end of it."""

    def publish(self, readings: Json) -> None:
        """Replace the picture; a reader sees the old one or the new one, never a mixture."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One counter or gauge of one process."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A traced request that a histogram counted.

    Attributes:
        name, labels: Of the histogram.
        le: The bucket's upper bound, as its label says it.
        value: What was counted.
        time_s: When, seconds since the epoch.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    le: str
    trace_id: str
    value: float
    time_s: float


class Cell(Protocol):
    """A number that outlives its process. Never blocks."""

    def add(self, amount: float) -> None:
        """Add to it."""

    def set(self, value: float) -> None:
        """Replace it."""

    def raise_to(self, value: float) -> None:
        """Replace it if it is less: for a count that somebody else keeps and may have gone on with from an older state."""


class MetricsBank(Protocol):
    """One process's numbers. `cell` is called when something is bound, never per request."""

    def cell(self, name: str, labels: Sequence[tuple[str, str]] = ()) -> Cell:
        """Return the cell of a name and labels, the same one each time; it keeps its value across restarts of the process.

        When the bank is full it returns the cell `gateway_metrics_overflow_total`, so that the loss itself is counted.
        """

    @property
    def share_taken(self) -> float:
        """How much of the bank is taken, in [0, 1]."""

    def exemplify(self, exemplars: Sequence[Exemplar]) -> None:
        """Replace what the process shows as examples of its histograms. Blocks for a millisecond; never called on a loop.

        Raises:
            StoreFailed: those before may still be shown.
        """

    def forget(self, is_unwanted: Callable[[Sample], bool]) -> None:
        """Give back the room of every cell that is unwanted; one that is still bound counts nowhere from then on.

        Called by whoever counts, between two counts. A reader sees all of what was there before, or all of what is left.

        Raises:
            StoreFailed: what is left could not be written; nothing was forgotten.
        """


class MetricsSnapshots(Protocol):
    """Every process's numbers, for the control plane to show."""

    def latest(self) -> Mapping[str, Sequence[Sample]]:
        """Return process name → its samples."""

    def exemplars(self) -> Mapping[str, Sequence[Exemplar]]:
        """Return process name → its exemplars; a process without any may be left out."""


class Traces(Protocol):
    """Where spans go. Losing one loses a picture."""

    def send(self, spans: Sequence[Span]) -> None:
        """Take spans that ended; never blocks. What finds no room, or nobody who takes it later, is dropped."""

    def close(self) -> None:
        """Send what waits, for at most 2 s."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which predictions are asked for; empty strings and None ask for all.

    Attributes:
        since_s, until_s: Of the record's time, seconds since the epoch; since inclusive, until exclusive.
    """

    route: str = ""
    version: str = ""
    prediction_id: str = ""
    since_s: float | None = None
    until_s: float | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class QuestionLimits:
    """What one question in SQL may take.

    Attributes:
        rows_max, bytes_max: Of its answer, which is cut there.
        timeout_s: From the start of its process to its answer.
    """

    rows_max: int
    bytes_max: int
    memory_bytes: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to a question: columns with their SQL types, and rows of what JSON can hold.

    Attributes:
        is_cut: Whether there was more than the limits let through.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    is_cut: bool


Timed = tuple[float, str, Offset, Record]  # a record's time, its stream and offset, and the record


class Archive(Protocol):
    """Columnar copies of closed segments."""

    def take(self, segment: Segment) -> int:
        """Copy a segment and list it in the manifest; return the predictions that this added.

        Taking a segment again changes nothing and returns 0. A crash at any point leaves the archive as it was before or after.
        Only one process takes and drops; any process queries meanwhile.

        Raises:
            ArchiveFailed: the segment could not be read or the archive not be written; nothing of it is listed.
        """

    def taken(self, stream: str) -> Offset:
        """Return the offset up to which a stream is in the archive."""

    def query(self, wanted: Filter) -> Iterator[Json]:
        """Yield the matching predictions, the newest first, with their ground truth under `ground_truth`, as JSON objects."""

    def lines(self, prediction_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the archived lines of predictions; those it does not hold are left out.

        Takes a bounded time: where the ids are spread over too many files, only those in the newest of them are looked for.
        """

    def ground_truth(self, prediction_ids: Sequence[str]) -> Mapping[str, Sequence[Json]]:
        """Return the archived ground truth of predictions, the oldest first; those without any are left out."""

    def in_order(self, wanted: Filter, *, decode: Callable[[str], Record]) -> tuple[Cursor, Iterator[Timed]]:
        """Return how far each stream is in the archive, and what is archived up to there, by (time, stream, offset).

        The matching predictions, and the ground truth of the same time, whosever it is; a filter's limit is not looked at.
        Holds some ten thousand records at once.

        Args:
            decode: Reads a prediction's line as the log's adapter does.
        """

    def anchors(self) -> Sequence[Anchor]:
        """Return the archived anchors of the audit log, each number and hash once with its earliest time, by number."""

    def dropped_s(self) -> float:
        """Return the time of the newest record that was ever dropped, seconds since the epoch; 0 when none was."""

    def export(self, wanted: Filter, to: PurePath, *, tail: Callable[[Cursor], Iterable[Json]] = lambda _taken: ()) -> int:
        """Write the matching predictions to one new Parquet file, one row per row of a prediction; return the predictions.

        Args:
            tail: Called once with how far each stream is in the archive; returns the log's objects after that, which are
                matched and written as well.
        """

    def ask(self, sql: str, *, within: QuestionLimits, tail: Callable[[Cursor], Iterable[Json]] = lambda _taken: ()) -> Table:
        """Return the answer of one statement that selects from `predictions` and `ground_truth`, and can reach nothing else.

        `predictions` has one row per row of a prediction, `ground_truth` the newest outcome of each row.

        Args:
            tail: As of `export`.

        Raises:
            NotValid: the SQL is wrong, or needs more time or memory than it may have.
        """

    def merge(self, now_s: float) -> int:
        """Join some small files of a stream into one, and return how many; 0 when nothing is due.

        A reader sees the small ones or the joined one, never both or neither, and so does whoever comes after a crash. Files
        that were joined stay until the second `drop` from then, for queries that began before.

        Args:
            now_s: Seconds since the epoch; a day that is over is joined more closely.
        """

    def backup(self, to: PurePath) -> Cursor:
        """Copy what the archive holds to a directory, while it is taken, merged and dropped; return how far each stream is.

        What an earlier call copied there is not copied again, and what is no longer held goes.
        """

    def drop(self, before_s: float) -> int:
        """Remove every file that holds nothing from `before_s` (seconds since the epoch) on; return the files removed."""
