"""What the prediction log holds, one value per line.

`docs/log-format.md` describes the same for readers of the files. A record is written before its answer leaves, by the worker
that gave the answer, and never changes; late facts (ground truth) are records of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NewType

from gateway.core.tensors import Tensor

FORMAT: Final = 1  # of the log; a reader refuses a number it does not know
Offset = NewType("Offset", int)  # bytes from the start of a stream; always the start of a line


class Kind(enum.Enum):
    """Why a prediction ran."""

    LIVE = "live"  # a request that the split routed
    SHADOW = "shadow"  # a copy whose answer was discarded
    PINNED = "pinned"  # a caller named the version
    DRILL = "drill"  # the gateway's own exercise


class Outcome(enum.Enum):
    """How an attempt, and the prediction as a whole, ended."""

    OK = "ok"
    FAILED = "failed"  # the runtime raised
    INVALID = "invalid"  # the outputs do not fit the signature, or a float output is NaN or infinite where input was not
    TIMED_OUT = "timed_out"  # the deadline passed inside predict, which had most of the attempt's time
    ABANDONED = "abandoned"  # it ran when the caller's own shorter timeout passed, or a deadline mostly spent in the queue
    CRASHED = "crashed"  # the worker died while it ran
    HUNG = "hung"  # the watchdog killed the worker while it ran


FAULTS: Final = frozenset(set(Outcome) - {Outcome.OK, Outcome.ABANDONED})  # each counts against the version


@dataclass(slots=True)
class Attempt:
    """One try on one variant, in the order they were made. Never changed; see `PredictionRecord`."""

    variant: str
    version: str
    outcome: Outcome
    duration_us: int


@dataclass(slots=True)
class PredictionRecord:
    """One answer. Never changed; not frozen, because every answer makes one, and freezing triples what that costs (3 µs).

    Attributes:
        prediction_id: UUIDv7, canonical text.
        time_s: When the record was made, seconds since the epoch; never falls within a stream.
        model, route, revision: What was called, and the route's revision that decided.
        assigned: The variant the split chose; equals `variant` unless a failover answered.
        variant, version, digest: What really answered.
        attempts: At least one; a failover has two.
        assignment_key: Hashed (see `core/split.py`), or of the prediction id when the caller sent none (`is_keyed` false);
            what was running when a worker died shares one.
        inputs, outputs: As received and as answered; outputs are empty unless `outcome` is ok.
        batch_rows, batch_position: Rows of the batch the runtime saw, and the index of this request's first row in it.
        latency_us: From the last byte of the request to the record.
        shadow_of: The live prediction that a shadow copies, else empty.
        trace_id: From `traceparent`, or of the trace begun here, else empty.
        resting: Variants that could not have run it, whichever the split chose: kept out of rotation by the worker's own rule
            or not loaded. Only of live predictions that the split had a choice for.
        dropped, hashed: Inputs, or columns of the one wide input, that are not here as they came (see `core/privacy.py`).
    """

    prediction_id: str
    time_s: float
    kind: Kind
    model: str
    route: str
    revision: int
    assigned: str
    variant: str
    version: str
    digest: str
    attempts: tuple[Attempt, ...]
    assignment_key: str
    is_keyed: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batch_rows: int
    batch_position: int
    runtime_version: str
    outcome: Outcome
    latency_us: int
    shadow_of: str = ""
    trace_id: str = ""
    resting: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()


@dataclass(slots=True)
class GroundTruthRecord:
    """The true outcome of one row of a prediction, as it became known. Never changed; see `PredictionRecord`.

    Attributes:
        row: Index of the row in the prediction's request.
        value: A label or a number.
        observed_at_s: When the world showed it, if the caller said so; else `time_s`.
    """

    prediction_id: str
    time_s: float
    row: int
    value: str | float | int | bool
    observed_at_s: float
    principal: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Written by an idle worker, so that the merge of all streams can move on."""

    time_s: float


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The last record of a stream whose worker is gone for good; a later record opens the stream again."""

    time_s: float


@dataclass(frozen=True, slots=True)
class Anchor:
    """The audit log's newest entry, as a worker found it: an audit log shortened or written anew later contradicts it."""

    time_s: float
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A prediction on a route that whoever reads leaves to others: all that it gets of it. Never written."""

    prediction_id: str
    time_s: float
    route: str


Record = PredictionRecord | GroundTruthRecord | Heartbeat | StreamEnd | Anchor | Elsewhere


@dataclass(frozen=True, slots=True)
class Page:
    """What one read returned, in order.

    Attributes:
        records: With the offset of each.
        next: Where the following read starts.
    """

    records: tuple[tuple[Offset, Record], ...]
    next: Offset


Cursor = Mapping[str, Offset]  # stream → how far a consumer has gone
