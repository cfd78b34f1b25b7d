"""Every automatic decision of the audit log, found again from the prediction log with the same evidence.

The log is folded up to the decision's own time, by the monitor's code; what is decided there must be what stands in the entry,
number by number. Between two decisions the fold goes on from what the entry wrote, as the monitor's did. Each of several
processes has a fold of its own: each looks at a share of its own, and what stands later in the audit log may have been decided
earlier in the prediction log.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.access import MONITOR
from gateway.core.aftermath import REVISE
from gateway.core.attribution import Attribution
from gateway.core.audit import AuditEntry, plain_object
from gateway.core.fields import Json
from gateway.core.partitions import partitions
from gateway.core.policy import Decision
from gateway.core.reopening import Acquit
from gateway.core.retraining import ASK
from gateway.core.rollouts import Event, Rollout, rollout_from_body
from gateway.monitor.act import BEGIN, CODE_VERSION, action_of, is_increase
from gateway.monitor.decide import aftermath_evidence, drift_evidence, judged, judged_again, retraining_due, retraining_request
from gateway.monitor.fleet import learn_rollbacks
from gateway.monitor.fold import Fold
from gateway.monitor.state import RouteState
from gateway.ports.archive import Filter, Timed
from gateway.ports.stores import RegistryStore
from gateway.replay.past import Past, Progress, unheard
from gateway.replay.refold import Refold, Routes, entries, view_in

DIFFERENCES_MAX: Final = 20  # named of one entry
_ACQUITTAL: Final = "rollout.acquit"
_NOWHERE: Final[Mapping[str, int]] = {}
_UNFROZEN: Final = Attribution.NONE.value
_PLACE: Final = ("cursor", "log_time_s", "code_version")  # of the evidence: where it was found, not what


class Finding(enum.Enum):
    """What became of a decision when it was recomputed."""

    SAME = "same"
    DIFFERS = "differs"
    GONE = "gone"  # it differs, and a part of the log that it may rest on was dropped
    OTHER_CODE = "other code"  # decided by another version of the arithmetic


@dataclass(frozen=True, slots=True)
class Recomputed:
    """One automatic decision.

    Attributes:
        differences: `name: recorded, found` of what is not the same.
    """

    seq: int
    action: str
    subject: str
    log_time_s: float
    finding: Finding
    differences: tuple[str, ...] = ()

    def body(self) -> Json:
        """Return it as it is printed."""
        return {
            "seq": self.seq,
            "action": self.action,
            "subject": self.subject,
            "log_time_s": self.log_time_s,
            "finding": self.finding.value,
            "differences": list(self.differences),
        }


@dataclass(frozen=True, slots=True)
class _Process:
    """One life of one of the monitor's processes: the fold of its routes, and what it decided, in its own order.

    Attributes:
        begun: Before which it knew nothing of the log, because the state before was lost; empty for the first life.
        increases: When each route's challenger got more callers by itself, in the log's time, whoever lived then.
    """

    refold: Refold
    due: deque[AuditEntry]
    begun: Mapping[str, int]
    increases: Mapping[str, Sequence[float]]

    def has_read(self, timed: Timed) -> bool:
        """Return whether a record lies behind the place where it began."""
        _, stream, offset, _ = timed
        return offset >= self.begun.get(stream, 0)


def recompute_decisions(past: Past, *, progress: Progress = unheard) -> list[Recomputed]:
    """Return every automatic decision with what became of it, in the order they were made.

    The routes are shared by as many processes as the settings say. While the monitor looked at a share, other numbers of
    processes before looked at other shares, and what they decided differs.

    Raises:
        ArchiveFailed, LogFailed, StoreFailed: the past cannot be read.
    """
    made = [entry for entry in entries(past.registry) if entry.principal == MONITOR.name and "log_time_s" in entry.evidence]
    if not made:
        return []
    processes = _processes(past, made)
    dropped_s = past.archive.dropped_s()
    found: list[Recomputed] = []
    until_s = math.nextafter(max(_log_time_s(entry) for entry in made), math.inf)
    for timed in past.records(Filter(until_s=until_s), progress):
        for one in processes:
            while one.due and not _rests_on(one.due[0], timed):
                found.append(_recomputed(one.due.popleft(), one, past.registry, dropped_s))
            if one.due and one.has_read(timed):
                one.refold.take(timed)
                _forget_due(one.refold.fold, past.monitor.retraining_gap_s)
    found += [_recomputed(entry, one, past.registry, dropped_s) for one in processes for entry in one.due]
    return sorted(found, key=lambda one: one.seq)


def _forget_due(fold: Fold, gap_s: float) -> None:
    """Let what is due pass, as the monitor did where it decided nothing: a rise that it told nobody of it forgot."""
    for name in fold.due:
        state = fold.routes[name]
        if state.retraining.rise is not None:
            retraining_due(state, now_s=fold.now_s, gap_s=gap_s)
    fold.due.clear()


def _processes(past: Past, made: Sequence[AuditEntry]) -> list[_Process]:
    """Return those of the monitor's processes that decided anything, each once for every time that it began."""
    routes = Routes(past.registry)
    of = {entry.seq: _route_name(entry, routes) for entry in made}
    increases: dict[str, list[float]] = {}
    for entry in filter(is_increase, made):
        increases.setdefault(of[entry.seq], []).append(_log_time_s(entry))
    begins = [entry for entry in entries(past.registry) if entry.principal == MONITOR.name and entry.action == BEGIN]
    found: list[_Process] = []
    for own in partitions(past.monitor.processes):
        lives = [(0, _NOWHERE), *((one.seq, _cursor(one)) for one in begins if one.subject == f"monitor:{own.consumer}")]
        ends = [*(seq for seq, _ in lives[1:]), math.inf]
        for (seq, begun), end in zip(lives, ends, strict=True):
            its = deque(entry for entry in made if seq < entry.seq < end and own.has(of[entry.seq]))
            if its:
                found.append(_Process(Refold(past, routes.view, routes.ended, own.has), its, begun, increases))
    return found


def _route_name(entry: AuditEntry, routes: Routes) -> str:
    kind, _, name = entry.subject.partition(":")
    return routes.rollouts[name].route if kind == "rollout" and name in routes.rollouts else name


def _recomputed(entry: AuditEntry, process: _Process, registry: RegistryStore, dropped_s: float) -> Recomputed:
    """Compare one decision, and let the fold go on from what it wrote."""
    refold, log_time_s = process.refold, _log_time_s(entry)
    if log_time_s > refold.fold.now_s:
        refold.tick(log_time_s)
    if is_increase(entry):
        learn_rollbacks(refold.fold, registry, before=entry.seq)
    if entry.action == ASK:
        return _recomputed_request(entry, refold, dropped_s)
    before, after = _rollout(entry.before), _rollout(entry.after)
    began = view_in(_route(entry.before), {} if before is None else {before.id: before})
    became = view_in(_route(entry.after), {after.id: after} if after is not None and after.is_open else {})
    if before is not None and entry.action in (_ACQUITTAL, REVISE):  # they change no route
        differences = list(_differences(entry, refold, before.route, before))
    elif began is None or became is None:
        differences = ["route: the entry does not hold it"]
    else:
        if (state := refold.fold.routes.get(began.name)) is not None:
            refold.learn(began)
            before_s = [time_s for time_s in process.increases.get(began.name, ()) if time_s < log_time_s]
            state.last_increase_s = max(before_s, default=None)
        differences = list(_differences(entry, refold, began.name, before))
        if began.name in refold.fold.routes:
            event = _event(entry)
            refold.fold.acted(began.name, event, after, became)
    finding = Finding.SAME
    if entry.evidence.get("code_version") != CODE_VERSION:
        finding = Finding.OTHER_CODE
    elif differences:
        is_gone = dropped_s > 0.0 and (_began_s(entry, before, refold, began.name if began else "") <= dropped_s)
        finding = Finding.GONE if is_gone else Finding.DIFFERS
    return Recomputed(entry.seq, entry.action, entry.subject, log_time_s, finding, tuple(differences[:DIFFERENCES_MAX]))


def _recomputed_request(entry: AuditEntry, refold: Refold, dropped_s: float) -> Recomputed:
    """Compare one request to train a model anew."""
    state = refold.fold.routes.get(entry.subject.partition(":")[2])
    request = None if state is None else retraining_request(state)
    found: Json = {}
    if state is not None and request is not None:
        evidence = request.evidence(state.view.model, refold.fold.now_s)
        found = plain_object({**evidence, "attribution": request.attribution.value})
        state.retraining.asked(refold.fold.now_s)
    recorded = {name: value for name, value in entry.evidence.items() if name not in _PLACE}
    differences = list(_unlike("", recorded, found))
    finding = Finding.SAME
    if entry.evidence.get("code_version") != CODE_VERSION:
        finding = Finding.OTHER_CODE
    elif differences:
        finding = Finding.GONE if dropped_s > 0.0 else Finding.DIFFERS
    return Recomputed(entry.seq, entry.action, entry.subject, _log_time_s(entry), finding, tuple(differences[:DIFFERENCES_MAX]))


def _differences(entry: AuditEntry, refold: Refold, route: str, rollout: Rollout | None) -> Iterator[str]:
    """Yield what of an entry's evidence comes out otherwise."""
    state = refold.fold.routes.get(route)
    if state is None:
        yield "route: the log has no record of it"
        return
    recorded = {name: value for name, value in entry.evidence.items() if name not in _PLACE}
    if "guardrails" in recorded:
        yield from _unlike("", {**recorded, "action": entry.action, "reason": entry.reason}, _decided(refold, state, rollout))
        return
    if "aftermath" in recorded:
        revised = {} if state.watch is None else plain_object({**aftermath_evidence(state.watch), "attribution": "WORLD"})
        yield from _unlike("", recorded, revised)
        return
    found = {} if state.drift is None else plain_object({**drift_evidence(state.drift), "attribution": "NONE"})
    yield from _unlike("", recorded, found)


def _decided(refold: Refold, state: RouteState, rollout: Rollout | None) -> Json:
    """Return what is decided on a rollout now, in the form of an entry's evidence."""
    watch = state.watch
    if watch is None or rollout is None or watch.rollout.id != rollout.id:
        return {}
    watch.learn(rollout)
    decision: Decision | Acquit | None = judged(refold.fold, state, watch, is_automation_on=True)
    if not rollout.is_open and (isinstance(decision, Acquit | None) or decision.event is None):
        decision = judged_again(refold.fold, state, watch, is_automation_on=True)
    if decision is None:
        return {}
    return plain_object(
        {
            **decision.evidence,
            "attribution": decision.attribution.value,
            "action": _action(decision),
            "reason": decision.reason,
        }
    )


def _action(decision: Decision | Acquit) -> str:
    if isinstance(decision, Acquit):
        return _ACQUITTAL
    return "none" if decision.event is None else action_of(decision.event)


def _unlike(name: str, recorded: object, found: object) -> Iterator[str]:
    """Yield where two values of JSON differ."""
    match recorded, found:
        case dict(), dict():
            for key in dict.fromkeys([*recorded, *found]):
                yield from _unlike(f"{name}.{key}" if name else str(key), recorded.get(key), found.get(key))
        case list(), list() if len(recorded) == len(found):
            for at, (one, other) in enumerate(zip(recorded, found, strict=True)):
                yield from _unlike(f"{name}[{at}]", one, other)
        case _ if recorded != found:
            yield f"{name}: {recorded!r}, {found!r}"
        case _:
            pass


def _began_s(entry: AuditEntry, rollout: Rollout | None, refold: Refold, route: str) -> float:
    """Return since when a decision's evidence is gathered: its rollout's begin; unknown and so 0 where drift takes part."""
    state = refold.fold.routes.get(route)
    has_drift = state is not None and state.drift is not None and bool(state.drift.incidents)
    has_drift |= entry.evidence.get("frozen_by", _UNFROZEN) != _UNFROZEN or "incidents" in entry.evidence
    return 0.0 if rollout is None or has_drift else rollout.started_at_s


def _event(entry: AuditEntry) -> Event:
    verb = entry.action.partition(".")[2]
    if verb != "rollback":
        return Event(verb)
    if "guardrails" not in entry.evidence:
        return Event.ROLLBACK
    return Event.GIVE_UP if entry.decision_id.endswith(f":{Event.GIVE_UP.value}") else Event.CONVICT


def _rests_on(entry: AuditEntry, timed: Timed) -> bool:
    """Return whether a record was folded before a decision: the entry's cursor names the first of each stream that was not."""
    _, stream, offset, _ = timed
    return offset < _cursor(entry).get(stream, 0)


def _cursor(entry: AuditEntry) -> dict[str, int]:
    cursor = entry.evidence.get("cursor")
    return {str(stream): at for stream, at in cursor.items() if isinstance(at, int)} if isinstance(cursor, dict) else {}


def _log_time_s(entry: AuditEntry) -> float:
    time_s = entry.evidence["log_time_s"]
    return float(time_s) if isinstance(time_s, int | float) else 0.0


def _route(bodies: Json) -> object:
    return next((body for subject, body in bodies.items() if subject.startswith("route:")), None)


def _rollout(bodies: Json) -> Rollout | None:
    body = next((body for subject, body in bodies.items() if subject.startswith("rollout:")), None)
    return None if body is None else rollout_from_body(body)
