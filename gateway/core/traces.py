"""Where a request stands in its caller's trace, and the spans that tell of it. Pure; W3C Trace Context, level 1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1  # the last bit of the flags
_RANDOM_DIGITS: Final = 14  # of a trace id that are sure to be random, its last ones


@dataclass(frozen=True, slots=True)
class TraceContext:
    """What `traceparent` says: the trace, the caller's span in it, and whether the trace is kept."""

    trace_id: str
    span_id: str
    is_sampled: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time.

    Attributes:
        parent_id: Empty for a trace's first.
        begin_s, end_s: Seconds since the epoch.
        failure: Why it failed; empty when it did not.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    begin_s: float
    end_s: float
    attributes: Mapping[str, str | int | float]
    failure: str = ""


def context_of(traceparent: bytes) -> TraceContext | None:
    """Return what a `traceparent` says, or None when it is not one: then the request has no trace, as the standard has it."""
    found = _PARENT.fullmatch(traceparent.strip().lower())
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = found[2].decode(), found[3].decode()
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED))


def traceparent_of(context: TraceContext) -> bytes:
    """Return the header that says a context."""
    return f"00-{context.trace_id}-{context.span_id}-{int(context.is_sampled):02x}".encode()


def is_kept(trace_id: str, share: float) -> bool:
    """Return whether a trace is among a share of all, the same for whoever asks."""
    return int(trace_id[-_RANDOM_DIGITS:], 16) < share * 16.0**_RANDOM_DIGITS
