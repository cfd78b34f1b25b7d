"""What people are told: which changes and conditions become notices, who gets them, and when a failed one is tried again.

The audit log says what was changed and why; a notice is one of its entries seen by somebody who must look, or a condition that
began or ended. Notices of one incident that wait for one channel become one message. Pure; `control/notifier.py` delivers.
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Final

from gateway.core.access import MONITOR
from gateway.core.audit import AuditEntry
from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json
from gateway.core.retraining import ASK, event_data

CHANNELS_MAX: Final = 100
PATTERNS_MAX: Final = 100  # routes, teams, and kinds, that one channel names
TITLE_LENGTH_MAX: Final = 200  # a subject line
TEXT_LENGTH_MAX: Final = 4_000  # of one notice; Slack and PagerDuty cut beyond it
MESSAGE_NOTICES_MAX: Final = 50  # 200 kB; PagerDuty refuses more than 512
RETRY_FIRST_S: Final = 2.0
RETRY_MAX_S: Final = 300.0
GIVE_UP_S: Final = 86_400.0  # a day; then nobody needs to be told any more, and the count of lost notices says so
_ROLLED_BACK: Final = frozenset({"rollout.rollback", "route.rollback"})
_WENT_WELL: Final = frozenset({"rollout.advance", "rollout.acquit", "rollout.promote"})
_BY_HAND: Final = _ROLLED_BACK | {"automation.off", "automation.on", "quarantine.release"}


class Severity(enum.Enum):
    """How soon somebody must look."""

    INFO = "info"  # to know
    WARNING = "warning"  # today
    CRITICAL = "critical"  # now


_RANK: Final = {severity: rank for rank, severity in enumerate(Severity)}


def is_worse(one: Severity, other: Severity) -> bool:
    """Return whether somebody must look sooner for one than for the other."""
    return _RANK[one] > _RANK[other]


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell.

    Attributes:
        id: The same for every attempt to deliver it.
        incident: What belongs together; a later notice of it says more, or that it is over.
        kind: The action in the audit log, or what sort of condition it is; what a program goes by.
        route: Empty for what concerns the whole gateway.
        text: With the evidence, in plain words.
        is_over: Whether the incident ended with it.
        details: What a program needs of it; empty for most.
    """

    id: str
    incident: str
    kind: str
    severity: Severity
    route: str
    title: str
    text: str
    time_s: float
    is_over: bool = False
    details: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Channel:
    """Who is told what.

    Attributes:
        url: Where; its scheme says how.
        severity: The least.
        routes: Patterns such as `fraud-*`; none for all. What concerns the whole gateway goes to every channel.
        teams: Patterns of the teams whose routes it is told of; none for all.
        kinds: Patterns such as `retraining.*`; none for all.
        quiet: From and until, UTC; what is not critical waits until the end. None for never.
    """

    name: str
    url: str
    severity: Severity = Severity.WARNING
    routes: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    quiet: tuple[time, time] | None = None

    def wants(self, notice: Notice, team: str = "") -> bool:
        """Return whether a notice is for this channel.

        Args:
            team: That answers for the notice's route; empty for none.
        """
        if _RANK[notice.severity] < _RANK[self.severity] or not _fits(notice.kind, self.kinds):
            return False
        return not notice.route or (_fits(notice.route, self.routes) and _fits(team, self.teams))

    def is_quiet(self, notice: Notice, now_s: float) -> bool:
        """Return whether a notice waits for the end of the quiet hours."""
        if self.quiet is None or notice.severity is Severity.CRITICAL:
            return False
        begin, end = self.quiet
        now = datetime.fromtimestamp(now_s, UTC).time()
        return begin <= now < end if begin <= end else now >= begin or now < end


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, one) for one in patterns)


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that lasts, and is told when it begins and when it is over."""

    incident: str
    severity: Severity
    route: str
    what: str


@dataclass(frozen=True, slots=True)
class Message:
    """What one channel is sent at once: the notices of one incident, the oldest first."""

    notices: tuple[Notice, ...]

    @property
    def id(self) -> str:
        """Of the newest notice; a receiver that saw it need not look again."""
        return self.notices[-1].id

    @property
    def incident(self) -> str:
        """What it is about."""
        return self.notices[-1].incident

    @property
    def is_over(self) -> bool:
        """Whether the incident has ended."""
        return self.notices[-1].is_over

    @property
    def severity(self) -> Severity:
        """The worst of its notices."""
        return max((notice.severity for notice in self.notices), key=_RANK.__getitem__)

    @property
    def title(self) -> str:
        """One line."""
        more = f" (and {len(self.notices) - 1} before)" if len(self.notices) > 1 else ""
        return f"[{self.severity.value}] {self.notices[-1].title}{more}"

    @property
    def text(self) -> str:
        """Everything, a paragraph a notice with its id, by which people know it again."""
        return "\n\n".join(map(_paragraph, self.notices))

    def body(self) -> Json:
        """Return the message as a webhook gets it."""
        return {
            "id": self.id,
            "incident": self.incident,
            "severity": self.severity.value,
            "title": self.title,
            "is_over": self.is_over,
            "notices": [notice_body(notice) for notice in self.notices],
        }


def _paragraph(notice: Notice) -> str:
    return "\n".join(filter(None, (f"{moment(notice.time_s)} {notice.title}", notice.text, f"notice {notice.id}")))


def messages(notices: Iterable[Notice]) -> list[Message]:
    """Return the messages of notices, the worst incident first, then as they began; more than fit into one go into the next."""
    by_incident: dict[str, list[Notice]] = {}
    for notice in notices:
        by_incident.setdefault(notice.incident, []).append(notice)
    worst_first = sorted(by_incident.values(), key=lambda of_one: -max(_RANK[notice.severity] for notice in of_one))
    return [Message(tuple(part)) for of_one in worst_first for part in _parts(of_one)]


def _parts(notices: Sequence[Notice]) -> Iterator[Sequence[Notice]]:
    for first in range(0, len(notices), MESSAGE_NOTICES_MAX):
        yield notices[first : first + MESSAGE_NOTICES_MAX]


def notice_of(entry: AuditEntry) -> Notice | None:
    """Return what people are told of a change, or None when it is told to nobody: what a person did on purpose, mostly."""
    is_own = entry.principal == MONITOR.name
    if not is_own and entry.action not in _BY_HAND:
        return None
    severity = Severity.WARNING
    if is_own and entry.action in _ROLLED_BACK:
        severity = Severity.CRITICAL
    elif is_own and entry.action in _WENT_WELL:
        severity = Severity.INFO
    who = "the gateway" if is_own else entry.principal
    route = _route(entry)
    on = f" on route {route}" if route else ""
    attribution = entry.evidence.get("attribution")
    details: Json = {"audit_entry": entry.seq, **event_data(route, entry.evidence)} if entry.action == ASK else {}
    lines = [
        entry.reason,
        f"attribution: {attribution}" if attribution else "",
        str(details.get("export", "")),
        f"audit entry {entry.seq}, {entry.subject}",
    ]
    return Notice(
        id=f"audit-{entry.seq}",
        incident=f"retraining:{route}" if entry.action == ASK else entry.subject,
        kind=entry.action,
        severity=severity,
        route=route,
        title=f"{entry.action}{on} by {who}"[:TITLE_LENGTH_MAX],
        text="\n".join(filter(None, lines))[:TEXT_LENGTH_MAX],
        time_s=entry.time_s,
        details=details,
    )


def teams_of(entry: AuditEntry, route: str) -> frozenset[str]:
    """Return who answered for a route before and after a change; nobody where the change did not write the route."""
    written = (body.get(f"route:{route}") for body in (entry.before, entry.after))
    return frozenset(str(one.get("team", "")) for one in written if isinstance(one, dict))


def began(incident: str, severity: Severity, route: str, what: str, now_s: float) -> Notice:
    """Return the notice that a condition began; its text is empty where the title says it all."""
    kind, title = incident.partition(":")[0], what[:TITLE_LENGTH_MAX]
    text = what[:TEXT_LENGTH_MAX] if what != title else ""
    return Notice(f"{incident}@{now_s:.3f}", incident, kind, severity, route, title, text, now_s)


def ended(worst: Notice, now_s: float) -> Notice:
    """Return the notice that the condition that `worst` told of is over; its time is when the condition began."""
    text = f"It lasted {now_s - worst.time_s:.0f} s."
    title = f"over: {worst.title}"[:TITLE_LENGTH_MAX]
    id = f"{worst.id}-over"
    return Notice(id, worst.incident, worst.kind, worst.severity, worst.route, title, text, now_s, is_over=True)


def retry_s(attempts: int) -> float:
    """Return how long to wait after so many failed attempts: twice as long each time, up to five minutes."""
    return min(RETRY_FIRST_S * 2.0 ** min(attempts - 1, 20), RETRY_MAX_S)


def channels_from_body(body: object) -> tuple[Channel, ...]:
    """Read the channels of a configuration: a table by name.

    Raises:
        MalformedRequest: a field is unknown or wrong.
    """
    if not isinstance(body, dict) or len(body) > CHANNELS_MAX:
        raise MalformedRequest(f"notices: expected a table of at most {CHANNELS_MAX} channels")
    return tuple(_channel(name, one) for name, one in body.items())


def notice_body(notice: Notice) -> Json:
    """Return a notice as it is shown and kept."""
    return {
        "id": notice.id,
        "incident": notice.incident,
        "kind": notice.kind,
        "severity": notice.severity.value,
        "route": notice.route,
        "title": notice.title,
        "text": notice.text,
        "time_s": notice.time_s,
        "is_over": notice.is_over,
        "details": notice.details,
    }


def notice_from_body(body: object) -> Notice:
    """Read what `notice_body` wrote."""
    fields = Fields(body, "notice")
    return Notice(
        id=fields.text("id"),
        incident=fields.text("incident"),
        kind=fields.text("kind"),
        severity=fields.choice("severity", Severity),
        route=fields.text("route"),
        title=fields.text("title"),
        text=fields.text("text"),
        time_s=fields.number("time_s", 0.0, 1e12),
        is_over=fields.boolean("is_over"),
        details=fields.mapping("details"),
    )


def moment(time_s: float) -> str:
    """Return a time as people read it."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _channel(name: str, body: object) -> Channel:
    fields = Fields(body, f"notices.{name}")
    channel = Channel(
        name=name,
        url=fields.text("url", length_max=2_000),
        severity=fields.choice("severity", Severity, Severity.WARNING),
        routes=tuple(str(one) for one in fields.items("routes", PATTERNS_MAX, ())),
        teams=tuple(str(one) for one in fields.items("teams", PATTERNS_MAX, ())),
        kinds=tuple(str(one) for one in fields.items("kinds", PATTERNS_MAX, ())),
        quiet=_quiet(fields, fields.items("quiet", 2, ())),
    )
    fields.done()
    return channel


def _quiet(fields: Fields, given: Sequence[object]) -> tuple[time, time] | None:
    if not given:
        return None
    try:
        begin, end = (time.fromisoformat(str(one)) for one in given)
    except ValueError:
        raise fields.wrong("quiet", 'two times of day in UTC, such as ["22:00", "06:00"]') from None
    return begin, end


def _route(entry: AuditEntry) -> str:
    written = (subject.partition(":") for subject in (entry.subject, *entry.after, *entry.before))
    return next((name for kind, _, name in written if kind == "route"), "")
