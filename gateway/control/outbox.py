"""What people are still to be told, and how it is kept: notices that wait, conditions that last, and how each channel does.

`notifier.py` decides what goes in and out of it; saved with how far the audit log was read, it is all that a successor needs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson

from gateway.core.fields import Fields
from gateway.core.notices import CHANNELS_MAX, Notice, Severity, notice_body, notice_from_body

OUTBOX_MAX: Final = 10_000  # notices that wait; beyond it the oldest is given up and counted
_COUNT_MAX: Final = 2**53


@dataclass(slots=True)
class Waiting:
    """A notice, and the channels that have not taken it.

    Attributes:
        is_taken: Whether one of its channels took it.
    """

    notice: Notice
    channels: set[str]
    is_taken: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """How a condition that lasts was told, and the channels to tell of its end: whoever answers for its route by then.

    Attributes:
        notice: The worst, with the time of the first: that is how long it lasts.
    """

    notice: Notice
    told: frozenset[str]


@dataclass(slots=True)
class Line:
    """How one channel does.

    Attributes:
        failures: One after the other.
        tried: How often in vain, by the ids of the notices that wait.
        next_s: Before it, nothing is tried but critical notices that never were; of the monotonic clock, since the other may be
            set back.
    """

    failures: int = 0
    next_s: float = -math.inf
    tried: Counter[str] = field(default_factory=Counter)
    error: str = ""
    delivered: int = 0
    lost: int = 0

    def is_urgent(self, notice: Notice) -> bool:
        """Return whether a notice does not wait for the next try."""
        return notice.severity is Severity.CRITICAL and not self.tried[notice.id]


@dataclass(slots=True)
class Outbox:
    """All that is to be told.

    Attributes:
        open: Conditions that last, by incident.
        untold: How many notices no channel wanted.
    """

    waiting: list[Waiting] = field(default_factory=list)
    open: dict[str, Open] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    untold: Counter[Severity] = field(default_factory=Counter)

    def line(self, channel: str) -> Line:
        """Return how a channel does."""
        return self.lines.setdefault(channel, Line())

    def unheard(self) -> Counter[Severity]:
        """Return how many notices, but for those of an end, wait and were taken by no channel, or last and none wants."""
        waiting = (one.notice for one in self.waiting if not one.is_taken and not one.notice.is_over)
        unwanted = (one.notice for one in self.open.values() if not one.told)
        return Counter(notice.severity for notice in (*waiting, *unwanted))

    def encoded(self) -> bytes:
        """Return what `decoded` reads; tries and errors are this process's own."""
        return orjson.dumps(
            {
                "outbox": [[notice_body(one.notice), sorted(one.channels)] for one in self.waiting],
                "taken": [one.notice.id for one in self.waiting if one.is_taken],
                "open": [[notice_body(one.notice), sorted(one.told)] for one in self.open.values()],
                "lines": {name: [line.delivered, line.lost] for name, line in self.lines.items()},
                "untold": {severity.value: count for severity, count in self.untold.items()},
            }
        )


def decoded(content: bytes) -> Outbox:
    """Read what `encoded` wrote; its channels are those of then.

    Raises:
        Rejected, ValueError, IndexError: it is of another version of the program.
    """
    fields = Fields(orjson.loads(content), "notices")
    taken = frozenset(map(str, fields.items("taken", OUTBOX_MAX + 1, ())))
    found = Outbox(
        waiting=[Waiting(notice, set(names), notice.id in taken) for notice, names in _pairs(fields, "outbox")],
        open={notice.incident: Open(notice, frozenset(names)) for notice, names in _pairs(fields, "open")},
    )
    for name, counts in fields.mapping("lines").items():
        if isinstance(counts, list):
            found.lines[name] = Line(delivered=counts[0], lost=counts[1])
    untold = Fields(fields.mapping("untold", {}), "untold")
    found.untold.update({one: untold.integer(one.value, 0, _COUNT_MAX, 0) for one in Severity})
    return found


def _pairs(fields: Fields, field: str) -> Iterator[tuple[Notice, Collection[str]]]:
    """Yield saved notices with the names of their channels."""
    for item in fields.items(field, OUTBOX_MAX + 1):
        pair = Fields({"pair": item}, "notices").items("pair", 2)
        yield notice_from_body(pair[0]), list(map(str, Fields({"names": pair[1]}, "notices").items("names", CHANNELS_MAX)))
