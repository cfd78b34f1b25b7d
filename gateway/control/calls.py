"""What an operation of the admin API is: its place in the table, what a call brings and what it answers.

Operations are plain blocking functions from (control, call) to an answer; `app.py` authenticates the caller, reads the body,
runs them in threads and turns what they raise into JSON. One table of them both dispatches and becomes the OpenAPI document.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from gateway.control.lingering import Lingering
from gateway.control.notifier import Notifier
from gateway.control.refusals import Refusals
from gateway.control.trail import Trail
from gateway.control.upload import Upload
from gateway.core.access import Principal, Scope
from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json
from gateway.ports.archive import Archive
from gateway.ports.clock import Clock
from gateway.ports.log import PredictionLogReader
from gateway.ports.metrics import MetricsSnapshots
from gateway.ports.readings import ReadingsView
from gateway.ports.runtimes import Validator
from gateway.ports.stores import ArtifactStore, RegistryStore
from gateway.settings import ControlSettings

T = TypeVar("T")
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000  # of a listing's page; 1,000 versions with 20 columns are about 2 MB


@dataclass(slots=True)
class Failures:
    """How often an operation met an error that the program has no name for. Counted on the event loop alone."""

    count: int = 0

    def note(self) -> None:
        """Count one more."""
        self.count += 1


@dataclass(frozen=True, slots=True)
class Control:
    """What the operations work with.

    Attributes:
        workers: Names of the serving workers that a change waits for.
        preparing: Held from a change's preparation until workers answer with it, since only the newest proposal stands. A
            rollback never takes it.
        last_look: Held from a last look at the registry to the commit that rests on it: that a version's name is free, that none
            on a route is retired, that a key to manage keys is left.
        validations: As many validation processes as may run at once.
        questions: As many questions in SQL as may be answered at once.
    """

    settings: ControlSettings
    registry: RegistryStore
    artifacts: ArtifactStore
    validator: Validator
    archive: Archive
    log: PredictionLogReader
    readings: ReadingsView
    snapshots: MetricsSnapshots
    workers: tuple[str, ...]
    clock: Clock
    validations: threading.BoundedSemaphore
    questions: threading.BoundedSemaphore
    preparing: threading.Lock = field(default_factory=threading.Lock)
    last_look: threading.Lock = field(default_factory=threading.Lock)
    failures: Failures = field(default_factory=Failures)
    trail: Trail = field(default_factory=Trail)
    lingering: Lingering = field(default_factory=Lingering)
    refusals: Refusals = field(default_factory=Refusals)
    notifiers: list[Notifier] = field(default_factory=list)  # one where channels are configured, else none


class Takes(enum.Enum):
    """What body an operation reads."""

    NOTHING = "nothing"
    JSON = "json"
    UPLOAD = "upload"


class ParameterKind(enum.Enum):
    """How a query parameter is written."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    TIME = "time"  # seconds since the epoch, or ISO 8601


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter; integers lie in [low, high]."""

    name: str
    kind: ParameterKind
    description: str
    default: str | int | bool | None = None
    low: int = 0
    high: int = 1 << 53


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request.

    Attributes:
        query: Every parameter the operation declares, parsed or by default.
        body: Parsed JSON, or None.
        if_match: The revision of `If-Match`, or None.
    """

    principal: Principal
    path: Mapping[str, str]
    query: Mapping[str, str | int | float | bool | None]
    body: object = None
    upload: Upload | None = None
    if_match: int | None = None
    accept: str = ""

    def asked(self, name: str, kind: type[T]) -> T:
        """Return a parameter that has a default, so that it is there."""
        value = self.query[name]
        assert isinstance(value, kind)
        return value

    def time(self, name: str) -> float | None:
        """Return a time in seconds since the epoch, or None."""
        value = self.query[name]
        assert value is None or isinstance(value, float)
        return value

    def fields(self, where: str) -> Fields:
        """Return the body's fields; an absent body has none."""
        return Fields({} if self.body is None else self.body, where)


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer."""

    body: Json
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is text already."""

    content: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Lines:
    """A streamed answer; each piece is pulled in a thread."""

    pieces: Iterator[bytes]
    media_type: str


@dataclass(frozen=True, slots=True)
class TemporaryFile:
    """A file that is sent and then removed, with the directory that holds it alone."""

    path: Path
    media_type: str


Reply = Answer | Text | Lines | TemporaryFile


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table.

    Attributes:
        scope: What the token needs; None leaves the path open.
        waits: Whether it waits for workers or validation, and so runs in the threads kept for that.
        body, answer: Names of schemas in the OpenAPI document.
    """

    method: str
    path: str
    name: str
    summary: str
    scope: Scope | None
    perform: Callable[[Control, Call], Reply]
    query: tuple[Parameter, ...] = ()
    takes: Takes = Takes.NOTHING
    waits: bool = False
    body: str = ""
    answer: str = ""
    status: int = 200
    has_if_match: bool = False


def paged(*more: Parameter, after: ParameterKind = ParameterKind.TEXT) -> tuple[Parameter, ...]:
    """Return the parameters of a listing."""
    first: str | int = "" if after is ParameterKind.TEXT else 0
    return (
        Parameter("after", after, "Start after this one; `next` of the page before.", first),
        Parameter("limit", ParameterKind.INTEGER, "How many at most.", LIMIT_DEFAULT, 1, LIMIT_MAX),
        *more,
    )


def page_of(name: str, items: Sequence[T], limit: int, *, show: Callable[[T], Json], key: Callable[[T], object]) -> Answer:
    """Return one page of a listing; `next` is the `after` of the following page, or null at the end.

    Args:
        items: Up to `limit` + 1 of them; the extra one only tells that there are more.
    """
    shown = items[:limit]
    return Answer({name: [show(item) for item in shown], "next": key(shown[-1]) if len(items) > limit else None})


def query_of(parameters: Sequence[Parameter], given: Sequence[tuple[str, str]]) -> dict[str, str | int | float | bool | None]:
    """Return every declared parameter, parsed or by default.

    Raises:
        MalformedRequest: one is unknown, repeated or not of its form.
    """
    texts = dict(given)
    known = {parameter.name: parameter for parameter in parameters}
    if unknown := sorted(set(texts) - set(known)):
        allowed = f"known are {', '.join(sorted(known))}" if known else "there are none here"
        raise MalformedRequest(f"query: unknown parameter {unknown[0]!r}; {allowed}")
    if len(texts) != len(given):
        raise MalformedRequest("query: a parameter is given twice")
    return {name: _parsed(parameter, texts[name]) if name in texts else parameter.default for name, parameter in known.items()}


def revision_of(if_match: str | None) -> int | None:
    """Return the revision that an `If-Match` header names: an ETag of ours, quoted or bare.

    Raises:
        MalformedRequest: it is something else.
    """
    if if_match is None:
        return None
    bare = if_match.strip().removeprefix("W/").strip('"')
    if not (bare.isascii() and bare.isdigit() and len(bare) < 19):
        raise MalformedRequest(f'If-Match: expected a revision such as "3", got {if_match[:40]!r}', hint="0 creates")
    return int(bare)


def _parsed(parameter: Parameter, text: str) -> str | int | float | bool:
    where = f"query.{parameter.name}"
    match parameter.kind:
        case ParameterKind.TEXT:
            return Fields({parameter.name: text}, "query").text(parameter.name, length_max=500)
        case ParameterKind.INTEGER:
            if not (text.isascii() and text.isdigit() and len(text) < 19 and parameter.low <= int(text) <= parameter.high):
                raise MalformedRequest(f"{where}: expected an integer from {parameter.low} to {parameter.high}")
            return int(text)
        case ParameterKind.BOOLEAN:
            if text not in {"true", "false"}:
                raise MalformedRequest(f"{where}: expected true or false")
            return text == "true"
        case ParameterKind.TIME:
            return _time(text, where)


def _time(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = datetime.fromisoformat(text).astimezone().timestamp()
        except (ValueError, OverflowError, OSError) as error:
            raise MalformedRequest(f"{where}: expected seconds since the epoch or a time in ISO 8601") from error
    if not 0.0 <= seconds <= 1e12:
        raise MalformedRequest(f"{where}: expected a time after 1970")
    return seconds
