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
from dataclasses import replace
from functools import partial
from typing import Final

from gateway.control.outbox import OUTBOX_MAX, Open, Outbox, Waiting, decoded
from gateway.control.repeating import repeat
from gateway.core.errors import DeliveryFailed, Rejected
from gateway.core.fields import Json
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
OVER_AFTER_S: Final = 60.0  # what stops and begins again within it is one condition
DEAD_ATTEMPTS: Final = 4  # failures one after the other, half a minute, after which the other channels are told
POLL_S: Final = 1.0
_PAGE: Final = 500
_AUDIT: Final = "audit"
_journal = logging.getLogger(__name__)


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
        self._box = Outbox()
        self._gone_s: dict[str, float] = {}  # when each open condition was first seen to have stopped, by the monotonic clock
        self._routes: Mapping[str, Route] = registry.table().routes  # as the last look found them
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
            waiting = Counter(name for one in self._box.waiting for name in one.channels)
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
                    "delivered": self._box.line(name).delivered,
                    "lost": self._box.line(name).lost,
                    "failures": self._box.line(name).failures,
                    "error": self._box.line(name).error,
                }
                for name, (channel, _) in self._channels.items()
            ]
            notices = [{**notice_body(one.notice), "channels": sorted(one.channels)} for one in self._box.waiting[-_PAGE:]]
            return {
                "channels": channels,
                "waiting": notices,
                "open": [{**notice_body(one.notice), "told": sorted(one.told)} for one in self._box.open.values()],
            }

    def counts(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield for each channel its name and how many notices wait, were delivered and were lost."""
        with self._lock:
            waiting = Counter(name for one in self._box.waiting for name in one.channels)
            found = [(name, waiting[name], self._box.line(name).delivered, self._box.line(name).lost) for name in self._channels]
        yield from found

    def untold(self) -> Iterator[tuple[Severity, int]]:
        """Yield how many notices of each severity no channel wanted."""
        with self._lock:
            found = self._box.untold.copy()
        yield from ((severity, found[severity]) for severity in Severity)

    def unheard(self) -> Iterator[tuple[Severity, int]]:
        """Yield of how many notices of each severity nobody has heard yet."""
        with self._lock:
            found = self._box.unheard()
        yield from ((severity, found[severity]) for severity in Severity)

    def _take_entries(self) -> bool:
        entries = self._registry.audit(after=self._seq, limit=_PAGE)
        for entry in entries:
            if (notice := notice_of(entry)) is not None:
                self._tell(notice, teams_of(entry, notice.route) or self._teams(notice.route))
        self._seq = entries[-1].seq if entries else self._seq
        return bool(entries)

    def _take_conditions(self) -> bool:
        now_s, lasted, turn_s = self._clock.now_s(), self._box.open, self._clock.monotonic_s()
        lasting = {one.incident: one for one in (*self._conditions(), *self._dead())}
        fresh = [one for one in lasting.values() if self._is_news(one)]
        for one in fresh:
            notice = began(one.incident, one.severity, one.route, one.what, now_s)
            told = self._tell(notice, self._teams(one.route))
            if (known := lasted.get(one.incident)) is not None:
                notice, told = replace(notice, time_s=known.notice.time_s), told | known.told
            lasted[one.incident] = Open(notice, told)
        self._gone_s = {one: self._gone_s.get(one, turn_s) for one in lasted if one not in lasting}
        over = [incident for incident, since_s in self._gone_s.items() if turn_s - since_s >= OVER_AFTER_S]
        for incident in over:
            last = lasted.pop(incident)
            self._put(Waiting(ended(last.notice, now_s), set(last.told)))
        return bool(fresh or over)

    def _is_news(self, one: Condition) -> bool:
        """Return whether a condition began, or became worse: who is told of nothing less has not heard of it."""
        known = self._box.open.get(one.incident)
        return known is None or is_worse(one.severity, known.notice.severity)

    def _dead(self) -> Iterator[Condition]:
        """Yield the channels that take nothing: those who can still be told must know."""
        for name in self._channels:
            line = self._box.line(name)
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
            self._box.untold[notice.severity] += 1
            level = logging.INFO if notice.severity is Severity.INFO else logging.WARNING
            extra = {"action": "tell nobody", "notice": notice.id, "reason": notice.title}
            _journal.log(level, "No channel wants a notice", extra=extra)
        self._put(Waiting(notice, set(wanted)))
        return frozenset(wanted)

    def _put(self, waiting: Waiting) -> None:
        if not waiting.channels:
            return
        self._box.waiting.append(waiting)
        if len(self._box.waiting) > OUTBOX_MAX:
            self._give_up(self._box.waiting.pop(0))

    def _give_up_old(self) -> bool:
        """Give up what is too old for anybody to need it."""
        oldest_s = self._clock.now_s() - GIVE_UP_S
        old = [one for one in self._box.waiting if one.notice.time_s < oldest_s]
        for one in old:
            self._give_up(one)
            self._box.waiting.remove(one)
        return bool(old)

    def _due(self, name: str) -> Message | None:
        """Return what a channel is to be sent next, or None for nothing now.

        What was tried least comes first, so that a message that is refused again and again keeps back no other. While a channel
        that failed is left alone, what is critical and was never tried goes all the same: it may be well again.
        """
        now_s, (channel, _) = self._clock.now_s(), self._channels[name]
        with self._lock:
            line = self._box.line(name)
            mine = [one.notice for one in self._box.waiting if name in one.channels]
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
        line = self._box.line(name)
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
        for one in self._box.waiting:
            if one.notice.id in sent:
                one.channels.discard(name)
                one.is_taken = True
        self._box.waiting = [one for one in self._box.waiting if one.channels]

    def _give_up(self, waiting: Waiting) -> None:
        for name in waiting.channels & self._channels.keys():
            self._box.line(name).lost += 1
        extra = {"action": "give up", "notice": waiting.notice.id, "reason": waiting.notice.title}
        _journal.error("A notice was not delivered to everybody", extra=extra)

    def _save(self) -> None:
        self._checkpoints.save(CONSUMER, {_AUDIT: Offset(self._seq)}, self._box.encoded())

    def _restored(self) -> int:
        """Return the last audit entry read; a gateway that begins to tell begins with what happens from now on."""
        saved = self._checkpoints.load(CONSUMER)
        if saved is None:
            return self._begun()
        cursor, state = saved
        try:
            self._take_over(decoded(state))
        except (Rejected, ValueError, IndexError) as error:  # of another version of the program; what lasts is told again
            self._box = Outbox()
            _journal.error("The saved state of notices cannot be read", extra={"action": "begin anew", "reason": str(error)})
        return int(cursor.get(_AUDIT, 0))

    def _begun(self) -> int:
        """Return the last audit entry, and save that it was: whatever becomes of this process, what comes after it is told."""
        self._seq = next((entry.seq for entry in self._registry.audit(limit=1, newest_first=True)), 0)
        self._save()
        return self._seq

    def _take_over(self, kept: Outbox) -> None:
        """Go on with what a predecessor kept; what waited only for channels that are no more is told to those that there are."""
        mine, box = self._channels.keys(), self._box
        box.untold = kept.untold
        box.lines = {name: line for name, line in kept.lines.items() if name in mine}
        box.open = {one: replace(of, told=of.told & mine) for one, of in kept.open.items() if not of.told or of.told & mine}
        anew = kept.open.keys() - box.open.keys()  # conditions that nobody here was told of: if they last, they begin now
        for one in kept.waiting:
            if channels := one.channels & mine:
                self._put(replace(one, channels=channels))
            elif not one.is_taken and not one.notice.is_over and one.notice.incident not in anew:
                self._tell(one.notice, self._teams(one.notice.route))


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
