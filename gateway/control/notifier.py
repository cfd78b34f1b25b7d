"""Delivers notices: audit entries and conditions → the outbox → each channel, at least once, with the same id.

The audit log is written in the transaction of the change that it tells of; the outbox is what was read of it and not delivered
yet, saved together with how far it was read. So nothing is lost when this process dies, and what was sent just before may be sent
again. Nobody waits for a channel: the monitor, the admin API and the other channels go on whatever it does.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import orjson

from gateway.control.repeating import repeat
from gateway.core.errors import DeliveryFailed, Rejected
from gateway.core.fields import Fields, Json
from gateway.core.notices import (
    GIVE_UP_S,
    Channel,
    Condition,
    Message,
    Notice,
    Severity,
    began,
    ended,
    is_worse,
    messages,
    notice_body,
    notice_from_body,
    notice_of,
    retry_s,
    teams_of,
)
from gateway.core.records import Offset
from gateway.core.routes import Route
from gateway.ports.clock import Clock
from gateway.ports.notices import Sender
from gateway.ports.stores import CheckpointStore, RegistryStore

CONSUMER: Final = "notices"
OUTBOX_MAX: Final = 10_000  # notices that wait; beyond it the oldest is given up and counted
OVER_AFTER_S: Final = 60.0  # what stops and begins again within it is one condition
DEAD_ATTEMPTS: Final = 4  # failures one after the other, half a minute, after which the other channels are told
POLL_S: Final = 1.0
_PAGE: Final = 500
_AUDIT: Final = "audit"
_journal = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    """A notice, and the channels that have not taken it."""

    notice: Notice
    channels: set[str]


@dataclass(frozen=True, slots=True)
class _Open:
    """How a condition that lasts was told, and the channels to tell of its end: whoever answers for its route by then.

    Attributes:
        notice: The worst, with the time of the first: that is how long it lasts.
    """

    notice: Notice
    told: frozenset[str]


@dataclass(slots=True)
class _Line:
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
class _State:
    outbox: list[_Waiting] = field(default_factory=list)
    open: dict[str, _Open] = field(default_factory=dict)  # conditions that last, by incident
    lines: dict[str, _Line] = field(default_factory=dict)
    untold: Counter[Severity] = field(default_factory=Counter)  # since this process began


class Notifier:
    """The only deliverer of a gateway; `look` is called by one thread, `deliver` by one for each channel, the rest by any."""

    def __init__(
        self,
        channels: Mapping[str, tuple[Channel, Sender]],
        *,
        registry: RegistryStore,
        checkpoints: CheckpointStore,
        conditions: Callable[[], Iterable[Condition]],
        clock: Clock,
    ) -> None:
        """Take what is told and to whom.

        Args:
            conditions: Returns those that last now.

        Raises:
            StoreFailed: registry or checkpoints cannot be read.
        """
        self._channels = channels
        self._registry = registry
        self._checkpoints = checkpoints
        self._conditions = conditions
        self._clock = clock
        self._state = _State()
        self._gone_s: dict[str, float] = {}  # when each open condition was first seen to have stopped, by the monotonic clock
        self._routes: Mapping[str, Route] = {}  # as the last look found them
        self._lock = threading.Lock()  # of the state and its saving; never held while a channel is waited for
        self._seq = self._restored()  # of the last audit entry read

    def look(self) -> None:
        """Take in what is new, give up what is too old, save: before any of it is delivered.

        Raises:
            PortFault: registry or checkpoints failed; nothing is lost.
        """
        self._routes = self._registry.table().routes
        with self._lock:
            if self._take_entries() | self._take_conditions() | self._give_up_old():
                self._save()

    def deliver(self, name: str) -> None:
        """Send one channel all that is due, the worst first, up to the first failure, and save after each message.

        Blocks as long as the channel does.

        Raises:
            PortFault: checkpoints failed; nothing is lost.
        """
        while (message := self._due(name)) is not None:
            error = self._error_of(name, message)
            with self._lock:
                self._note(name, message, error)
                self._save()
            if error:
                return

    @property
    def names(self) -> tuple[str, ...]:
        """Every channel's."""
        return tuple(self._channels)

    def test(self, name: str) -> str:
        """Send a test to one channel now; return why it failed, or nothing."""
        what = f"a test of channel {name}: nothing happened"
        return self._error_of(name, Message((began("test", Severity.INFO, "", what, self._clock.now_s()),)))

    def body(self) -> Json:
        """Return every channel and what waits for it; never an address, which may hold a secret."""
        with self._lock:
            waiting = Counter(name for one in self._state.outbox for name in one.channels)
            channels = [
                {
                    "channel": name,
                    "kind": channel.url.partition(":")[0],
                    "severity": channel.severity.value,
                    "routes": list(channel.routes),
                    "teams": list(channel.teams),
                    "kinds": list(channel.kinds),
                    "quiet": [f"{one:%H:%M}" for one in channel.quiet or ()],
                    "waiting": waiting[name],
                    "delivered": self._line(name).delivered,
                    "lost": self._line(name).lost,
                    "failures": self._line(name).failures,
                    "error": self._line(name).error,
                }
                for name, (channel, _) in self._channels.items()
            ]
            notices = [{**notice_body(one.notice), "channels": sorted(one.channels)} for one in self._state.outbox[-_PAGE:]]
            return {
                "channels": channels,
                "waiting": notices,
                "open": [notice_body(one.notice) for one in self._state.open.values()],
            }

    def counts(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield for each channel its name and how many notices wait, were delivered and were lost."""
        with self._lock:
            waiting = Counter(name for one in self._state.outbox for name in one.channels)
            found = [(name, waiting[name], self._line(name).delivered, self._line(name).lost) for name in self._channels]
        yield from found

    def untold(self) -> Iterator[tuple[Severity, int]]:
        """Yield how many notices of each severity no channel wanted, since this process began."""
        with self._lock:
            found = self._state.untold.copy()
        yield from ((severity, found[severity]) for severity in Severity)

    def _take_entries(self) -> bool:
        entries = self._registry.audit(after=self._seq, limit=_PAGE)
        for entry in entries:
            if (notice := notice_of(entry)) is not None:
                self._tell(notice, teams_of(entry, notice.route) or self._teams(notice.route))
        self._seq = entries[-1].seq if entries else self._seq
        return bool(entries)

    def _take_conditions(self) -> bool:
        now_s, state, turn_s = self._clock.now_s(), self._state, self._clock.monotonic_s()
        lasting = {one.incident: one for one in (*self._conditions(), *self._dead())}
        fresh = [one for one in lasting.values() if self._is_news(one)]
        for one in fresh:
            notice = began(one.incident, one.severity, one.route, one.what, now_s)
            told = self._tell(notice, self._teams(one.route))
            if (known := state.open.get(one.incident)) is not None:
                notice, told = replace(notice, time_s=known.notice.time_s), told | known.told
            state.open[one.incident] = _Open(notice, told)
        self._gone_s = {one: self._gone_s.get(one, turn_s) for one in state.open if one not in lasting}
        over = [incident for incident, since_s in self._gone_s.items() if turn_s - since_s >= OVER_AFTER_S]
        for incident in over:
            last = state.open.pop(incident)
            self._put(ended(last.notice, now_s), last.told)
        return bool(fresh or over)

    def _is_news(self, one: Condition) -> bool:
        """Return whether a condition began, or became worse: who is told of nothing less has not heard of it."""
        known = self._state.open.get(one.incident)
        return known is None or is_worse(one.severity, known.notice.severity)

    def _dead(self) -> Iterator[Condition]:
        """Yield the channels that take nothing: those who can still be told must know."""
        for name in self._channels:
            line = self._line(name)
            if line.failures >= DEAD_ATTEMPTS:
                what = f"channel {name} takes no notices: {line.error}"
                yield Condition(f"channel:{name}", Severity.CRITICAL, "", what)

    def _teams(self, route: str) -> frozenset[str]:
        """Return who answers for a route now."""
        found = self._routes.get(route)
        return frozenset({"" if found is None else found.team})

    def _tell(self, notice: Notice, teams: frozenset[str]) -> frozenset[str]:
        """Put a notice into the outbox for the channels that want it; return them."""
        wanted = {name for name, (channel, _) in self._channels.items() if any(channel.wants(notice, team) for team in teams)}
        wanted -= {notice.incident.removeprefix("channel:")} if notice.incident.startswith("channel:") else set()
        if not wanted:
            self._state.untold[notice.severity] += 1
            level = logging.INFO if notice.severity is Severity.INFO else logging.WARNING
            extra = {"action": "tell nobody", "notice": notice.id, "reason": notice.title}
            _journal.log(level, "No channel wants a notice", extra=extra)
        self._put(notice, frozenset(wanted))
        return frozenset(wanted)

    def _put(self, notice: Notice, channels: frozenset[str]) -> None:
        if not channels:
            return
        self._state.outbox.append(_Waiting(notice, set(channels)))
        if len(self._state.outbox) > OUTBOX_MAX:
            self._give_up(self._state.outbox.pop(0))

    def _give_up_old(self) -> bool:
        """Give up what is too old for anybody to need it."""
        oldest_s = self._clock.now_s() - GIVE_UP_S
        old = [one for one in self._state.outbox if one.notice.time_s < oldest_s]
        for one in old:
            self._give_up(one)
            self._state.outbox.remove(one)
        return bool(old)

    def _due(self, name: str) -> Message | None:
        """Return what a channel is to be sent next, or None for nothing now.

        What was tried least comes first, so that a message that is refused again and again keeps back no other. While a channel
        that failed is left alone, what is critical and was never tried goes all the same: it may be well again.
        """
        now_s, (channel, _) = self._clock.now_s(), self._channels[name]
        with self._lock:
            line = self._line(name)
            mine = [one.notice for one in self._state.outbox if name in one.channels]
            line.tried = Counter({notice.id: line.tried[notice.id] for notice in mine})
            due = messages(notice for notice in mine if not channel.is_quiet(notice, now_s))
            if line.next_s > self._clock.monotonic_s():
                due = [message for message in due if any(map(line.is_urgent, message.notices))]
            return min(due, key=lambda message: max(line.tried[notice.id] for notice in message.notices), default=None)

    def _error_of(self, name: str, message: Message) -> str:
        """Send a message; return why it was not taken, or nothing."""
        try:
            self._channels[name][1].send(message)
        except DeliveryFailed as error:
            return error.message
        return ""

    def _note(self, name: str, message: Message, error: str) -> None:
        line = self._line(name)
        line.error = error
        if error:
            now_s = self._clock.monotonic_s()
            line.failures += 1
            line.tried.update(notice.id for notice in message.notices)
            line.next_s = line.next_s if line.next_s > now_s else now_s + retry_s(line.failures)  # the others' turn stays theirs
            _journal.warning("A notice was not delivered", extra={"action": "retry", "channel": name, "reason": error})
            return
        line.failures, line.next_s = 0, -math.inf
        line.delivered += len(message.notices)
        sent = {notice.id for notice in message.notices}
        for one in self._state.outbox:
            if one.notice.id in sent:
                one.channels.discard(name)
        self._state.outbox = [one for one in self._state.outbox if one.channels]

    def _give_up(self, waiting: _Waiting) -> None:
        for name in waiting.channels & self._channels.keys():
            self._line(name).lost += 1
        extra = {"action": "give up", "notice": waiting.notice.id, "reason": waiting.notice.title}
        _journal.error("A notice was not delivered to everybody", extra=extra)

    def _line(self, name: str) -> _Line:
        return self._state.lines.setdefault(name, _Line())

    def _save(self) -> None:
        state = {
            "outbox": [[notice_body(one.notice), sorted(one.channels)] for one in self._state.outbox],
            "open": [[notice_body(one.notice), sorted(one.told)] for one in self._state.open.values()],
            "lines": {name: [line.delivered, line.lost] for name, line in self._state.lines.items()},
        }
        self._checkpoints.save(CONSUMER, {_AUDIT: Offset(self._seq)}, orjson.dumps(state))

    def _restored(self) -> int:
        """Return the last audit entry read; a gateway that begins to tell begins with what happens from now on."""
        saved = self._checkpoints.load(CONSUMER)
        if saved is None:
            return self._begun()
        cursor, state = saved
        try:
            self._restore(Fields(orjson.loads(state), "notices"))
        except (Rejected, ValueError, IndexError) as error:  # of another version of the program; what lasts is told again
            self._state = _State()
            _journal.error("The saved state of notices cannot be read", extra={"action": "begin anew", "reason": str(error)})
        return int(cursor.get(_AUDIT, 0))

    def _begun(self) -> int:
        """Return the last audit entry, and save that it was: whatever becomes of this process, what comes after it is told."""
        self._seq = next((entry.seq for entry in self._registry.audit(limit=1, newest_first=True)), 0)
        self._save()
        return self._seq

    def _restore(self, fields: Fields) -> None:
        self._state.outbox = [_Waiting(notice, set(names)) for notice, names in self._pairs(fields, "outbox") if names]
        self._state.open = {notice.incident: _Open(notice, names) for notice, names in self._pairs(fields, "open")}
        for name, counts in fields.mapping("lines").items():
            if name in self._channels and isinstance(counts, list):
                self._state.lines[name] = _Line(delivered=counts[0], lost=counts[1])

    def _pairs(self, fields: Fields, field: str) -> Iterator[tuple[Notice, frozenset[str]]]:
        """Yield saved notices, and which of their channels there still are."""
        for item in fields.items(field, OUTBOX_MAX + 1):
            pair = Fields({"pair": item}, "notices").items("pair", 2)
            names = frozenset(map(str, Fields({"names": pair[1]}, "notices").items("names", 1_000)))
            yield notice_from_body(pair[0]), names & self._channels.keys()


def run_notifier(notifier: Notifier, stop: threading.Event, failed: Callable[[], None]) -> None:
    """Look, and deliver to each channel in a thread of its own, until `stop`; what fails is tried again.

    Args:
        failed: Counts a failure that the program has no name for.
    """
    again = partial(repeat, what="Notices could not be looked after", every_s=POLL_S, stop=stop, failed=failed)
    turns = [partial(notifier.deliver, name) for name in notifier.names]
    threads = [threading.Thread(target=again, args=(turn,), name="notices", daemon=True) for turn in turns]
    for thread in threads:
        thread.start()
    again(notifier.look)
    for thread in threads:
        thread.join()
