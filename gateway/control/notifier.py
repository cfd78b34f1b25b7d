"""Delivers notices: audit entries and conditions → the outbox → each channel, at least once, with the same id.

The audit log is written in the transaction of the change that it tells of; the outbox is what was read of it and not delivered
yet, saved together with how far it was read. So nothing is lost when this process dies, and what was sent just before may be sent
again. Nobody waits for a channel: the monitor and the admin API go on whatever the channels do.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from gateway.core.errors import DeliveryFailed, PortFault
from gateway.core.fields import Fields, Json
from gateway.core.notices import (
    GIVE_UP_S,
    Channel,
    Message,
    Notice,
    Severity,
    began,
    ended,
    messages,
    notice_body,
    notice_from_body,
    notice_of,
    retry_s,
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


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that lasts, and is told when it begins and when it is over."""

    incident: str
    severity: Severity
    route: str
    what: str


@dataclass(slots=True)
class _Waiting:
    """A notice, and the channels that have not taken it."""

    notice: Notice
    channels: set[str]


@dataclass(slots=True)
class _Line:
    """How one channel does.

    Attributes:
        failures: One after the other.
        next_s: Before it, nothing is tried.
    """

    failures: int = 0
    next_s: float = 0.0
    error: str = ""
    delivered: int = 0
    lost: int = 0


@dataclass(slots=True)
class _State:
    outbox: list[_Waiting] = field(default_factory=list)
    open: dict[str, Notice] = field(default_factory=dict)  # conditions that last, by incident
    lines: dict[str, _Line] = field(default_factory=dict)


class Notifier:
    """The only deliverer of a gateway; `turn` is called by one thread, the rest by any."""

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
        self._gone_s: dict[str, float] = {}  # when each open condition was last seen to have stopped
        self._routes: Mapping[str, Route] = {}  # as this turn found them
        self._lock = threading.Lock()  # of the state; never held while a channel is waited for
        self._seq = self._restored()  # of the last audit entry read

    def turn(self) -> None:
        """Take in what is new, deliver what is due, save.

        Raises:
            PortFault: registry or checkpoints failed; nothing is lost.
        """
        self._routes = self._registry.table().routes
        with self._lock:
            changed = self._take_entries() | self._take_conditions()
        if changed:
            self._save()
        for name, message in self._due():
            self._deliver(name, message)
            self._save()

    def has(self, name: str) -> bool:
        """Return whether there is such a channel."""
        return name in self._channels

    def test(self, name: str) -> str:
        """Send a test to one channel now; return why it failed, or nothing."""
        channel, sender = self._channels[name]
        notice = began("test", Severity.INFO, "", f"a test of channel {channel.name}: nothing happened", self._clock.now_s())
        try:
            sender.send(Message((notice,)))
        except DeliveryFailed as error:
            return error.message
        return ""

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
                    "waiting": waiting[name],
                    "delivered": self._line(name).delivered,
                    "lost": self._line(name).lost,
                    "failures": self._line(name).failures,
                    "error": self._line(name).error,
                }
                for name, (channel, _) in self._channels.items()
            ]
            notices = [{**notice_body(one.notice), "channels": sorted(one.channels)} for one in self._state.outbox[-_PAGE:]]
            return {"channels": channels, "waiting": notices, "open": [notice_body(one) for one in self._state.open.values()]}

    def counts(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield for each channel its name and how many notices wait, were delivered and were lost."""
        with self._lock:
            waiting = Counter(name for one in self._state.outbox for name in one.channels)
            found = [(name, waiting[name], self._line(name).delivered, self._line(name).lost) for name in self._channels]
        yield from found

    def _take_entries(self) -> bool:
        entries = self._registry.audit(after=self._seq, limit=_PAGE)
        for entry in entries:
            if (notice := notice_of(entry)) is not None:
                self._put(notice)
        self._seq = entries[-1].seq if entries else self._seq
        return bool(entries)

    def _take_conditions(self) -> bool:
        now_s, state = self._clock.now_s(), self._state
        lasting = {one.incident: one for one in (*self._conditions(), *self._dead())}
        fresh = [one for incident, one in lasting.items() if incident not in state.open]
        for one in fresh:
            notice = state.open[one.incident] = began(one.incident, one.severity, one.route, one.what, now_s)
            self._put(notice)
        self._gone_s = {one: self._gone_s.get(one, now_s) for one in state.open if one not in lasting}
        over = [incident for incident, since_s in self._gone_s.items() if now_s - since_s >= OVER_AFTER_S]
        for incident in over:
            self._put(ended(state.open.pop(incident), now_s))
        return bool(fresh or over)

    def _dead(self) -> Iterator[Condition]:
        """Yield the channels that take nothing: those who can still be told must know."""
        for name in self._channels:
            line = self._line(name)
            if line.failures >= DEAD_ATTEMPTS:
                what = f"channel {name} takes no notices: {line.error}"
                yield Condition(f"channel:{name}", Severity.CRITICAL, "", what)

    def _put(self, notice: Notice) -> None:
        route = self._routes.get(notice.route)
        team = "" if route is None else route.team
        wanted = {name for name, (channel, _) in self._channels.items() if channel.wants(notice, team)}
        wanted -= {notice.incident.removeprefix("channel:")} if notice.incident.startswith("channel:") else set()
        if not wanted:
            return
        self._state.outbox.append(_Waiting(notice, wanted))
        if len(self._state.outbox) > OUTBOX_MAX:
            self._give_up(self._state.outbox.pop(0))

    def _due(self) -> list[tuple[str, Message]]:
        """Return what each channel is to be sent now; what is too old for anybody to need it is given up."""
        now_s, found = self._clock.now_s(), list[tuple[str, Message]]()
        with self._lock:
            for one in [one for one in self._state.outbox if now_s - one.notice.time_s > GIVE_UP_S]:
                self._give_up(one)
                self._state.outbox.remove(one)
            for name, (channel, _) in self._channels.items():
                if self._line(name).next_s > now_s:
                    continue
                mine = [one.notice for one in self._state.outbox if name in one.channels]
                ready = [notice for notice in mine if not channel.is_quiet(notice, now_s)]
                found += [(name, message) for message in messages(ready)]
        return found

    def _deliver(self, name: str, message: Message) -> None:
        line = self._line(name)
        if line.next_s > self._clock.now_s():  # a message before it failed just now
            return
        error = ""
        try:
            self._channels[name][1].send(message)
        except DeliveryFailed as failed:
            error = failed.message
        with self._lock:
            line.error = error
            if error:
                line.failures += 1
                line.next_s = self._clock.now_s() + retry_s(line.failures)
                _journal.warning("A notice was not delivered", extra={"action": "retry", "channel": name, "reason": error})
                return
            line.failures, line.next_s = 0, 0.0
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
        with self._lock:
            state = {
                "outbox": [[notice_body(one.notice), sorted(one.channels)] for one in self._state.outbox],
                "open": [notice_body(one) for one in self._state.open.values()],
                "lines": {name: [line.delivered, line.lost] for name, line in self._state.lines.items()},
            }
        self._checkpoints.save(CONSUMER, {_AUDIT: Offset(self._seq)}, orjson.dumps(state))

    def _restored(self) -> int:
        """Return the last audit entry read; a gateway that begins to tell begins with what happens from now on."""
        saved = self._checkpoints.load(CONSUMER)
        if saved is None:
            return next((entry.seq for entry in self._registry.audit(limit=1, newest_first=True)), 0)
        cursor, state = saved
        fields = Fields(orjson.loads(state), "notices")
        for item in fields.items("outbox", OUTBOX_MAX + 1):
            pair = Fields({"pair": item}, "notices").items("pair", 2)
            if names := set(map(str, Fields({"names": pair[1]}, "notices").items("names", 1_000))) & self._channels.keys():
                self._state.outbox.append(_Waiting(notice_from_body(pair[0]), names))
        opened = [notice_from_body(one) for one in fields.items("open", OUTBOX_MAX)]
        self._state.open = {notice.incident: notice for notice in opened}
        for name, counts in fields.mapping("lines").items():
            if name in self._channels and isinstance(counts, list):
                self._state.lines[name] = _Line(delivered=counts[0], lost=counts[1])
        return int(cursor.get(_AUDIT, 0))


def run_notifier(notifier: Notifier, stop: threading.Event, failed: Callable[[], None]) -> None:
    """Turn until `stop`; a turn that fails is tried again.

    Args:
        failed: Counts a failure that the program has no name for.
    """
    while not stop.wait(POLL_S):
        try:
            notifier.turn()
        except PortFault as error:
            _journal.warning("Notices could not be looked after", extra={"action": "retry", "reason": str(error)})
        except Exception:  # noqa: BLE001 - the queue's drain; counted and journalled
            failed()
            _journal.exception("Notices could not be looked after", extra={"action": "retry"})
