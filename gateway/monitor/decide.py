"""Decides what is due and acts on it: findings and facts → `core/policy.py` → a change of the registry, or none.

A decision is due when the fold says so: with the record that convicts, and once in each second of the log's time. A conflict
means that the route moved on; it is read again and decided anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from gateway.core.aftermath import has_not_helped
from gateway.core.attribution import Attribution
from gateway.core.chains import digests_of
from gateway.core.errors import RevisionConflict
from gateway.core.fields import Json
from gateway.core.policy import INCREASES, Decision, Facts, Rollback, decide
from gateway.core.records import Cursor
from gateway.core.reopening import Acquit, reopened
from gateway.core.rollouts import Rollout, RolloutState
from gateway.monitor.act import Acted, acquit, act, ask_retraining, revise, roll_back_for_drift
from gateway.monitor.drifting import DriftWatch
from gateway.monitor.fleet import learn_rollbacks
from gateway.monitor.fold import Fold
from gateway.monitor.retraining import REST_S, Request
from gateway.monitor.state import RouteState, is_due
from gateway.monitor.views import RouteView, present_view, unchanged_rollout, version_or_none
from gateway.monitor.watch import RolloutWatch
from gateway.ports.stores import RegistryStore

TRIES_MAX: Final = 5  # commits of others that may come between reading and committing before the next second tries again
_journal = logging.getLogger(__name__)


def decide_due(fold: Fold, registry: RegistryStore, cursor: Cursor, *, lag_s: float, retraining_gap_s: float) -> None:
    """Decide everything that is due, and act.

    Args:
        lag_s: How far the fold is behind the clock.
        retraining_gap_s: For which a route that asked to be trained anew does not ask again.

    Raises:
        StoreFailed: the registry cannot be read or written; what was not decided stays due.
    """
    for name in list(fold.due):
        for _ in range(TRIES_MAX):
            try:
                _decide_rollout(fold, fold.routes[name], registry, cursor, lag_s=lag_s)
                _decide_reopened(fold, fold.routes[name], registry, cursor)
                _decide_aftermath(fold, fold.routes[name], registry, cursor)
                _decide_drift(fold, fold.routes[name], registry, cursor)
                _decide_retraining(fold, fold.routes[name], registry, cursor, gap_s=retraining_gap_s)
                break
            except RevisionConflict:
                _read_again(fold, name, registry)
        fold.due.pop(name, None)


def _decide_rollout(fold: Fold, state: RouteState, registry: RegistryStore, cursor: Cursor, *, lag_s: float) -> None:
    watch = state.watch
    if watch is None or not is_due(state):
        return
    watch.learn(unchanged_rollout(registry, state.view, watch.rollout))
    decision = judged(fold, state, watch, is_automation_on=registry.automation().is_on, lag_s=lag_s)
    has_learned = decision.event is not None and _learn_increase(fold, state, registry)
    if decision.event in INCREASES:
        learn_rollbacks(fold, registry)
        has_learned = True
    until_s = _quarantined_until_s(registry, state.view, watch.rollout) if decision.event in INCREASES else 0.0
    if has_learned or until_s > fold.now_s:
        is_on = registry.automation().is_on
        decision = judged(fold, state, watch, is_automation_on=is_on, lag_s=lag_s, quarantined_until_s=until_s)
    state.decision = {
        "decision": type(decision).__name__,
        "reason": decision.reason,
        "attribution": decision.attribution.value,
        "evidence": decision.evidence,
    }
    if decision.event is not None:
        acted = act(registry, decision, watch.rollout, state.view, now_s=fold.now_s, cursor=cursor)
        _take(fold, state, acted, decision.reason)


def _learn_increase(fold: Fold, state: RouteState, registry: RegistryStore) -> bool:
    """Take the route's last automatic increase from the audit log, and return whether it was not known."""
    last_s = fold.increases.last_s(state.view.name, registry, before_s=fold.now_s)
    if last_s is None or last_s == state.last_increase_s:
        return False
    state.last_increase_s = last_s
    return True


def _quarantined_until_s(registry: RegistryStore, view: RouteView, rollout: Rollout) -> float:
    """Return until when a rollout's challenger, or a member of it, is in quarantine; 0 if it is not.

    A route that moved on since the view is none of its concern: what is decided then was decided before, or meets a conflict.
    """
    present = registry.table().routes.get(view.name)
    if present is None or present.revision != view.revision:
        return 0.0
    version = version_or_none(registry, rollout.model, rollout.challenger)
    digests = () if version is None else digests_of(version)
    return max((one.until_s for one in registry.quarantines() if one.digest in digests), default=0.0)


def judged(
    fold: Fold,
    state: RouteState,
    watch: RolloutWatch,
    *,
    is_automation_on: bool,
    lag_s: float = 0.0,
    quarantined_until_s: float = 0.0,
) -> Decision:
    """Return what happens to a route's rollout now; the monitor acts on it, a replay compares it or takes it further."""
    facts = _facts(fold, state, watch, is_automation_on=is_automation_on, lag_s=lag_s)
    return decide(watch.rollout, watch.findings(), replace(facts, quarantined_until_s=quarantined_until_s))


def judged_again(fold: Fold, state: RouteState, watch: RolloutWatch, *, is_automation_on: bool) -> Rollback | Acquit | None:
    """Return what ground truth that came after a rollout's end says against it now."""
    return reopened(watch.rollout, watch.findings(), _facts(fold, state, watch, is_automation_on=is_automation_on))


def drift_evidence(drift: DriftWatch) -> Json:
    """Return what an audit entry keeps of a rollback for drift."""
    return {"incidents": [incident.body() for incident in drift.incidents[-1:]], "drift": drift.bodies()}


def _decide_reopened(fold: Fold, state: RouteState, registry: RegistryStore, cursor: Cursor) -> None:
    """Look again at a rollout that is over, because more of its ground truth came."""
    watch = state.watch
    if watch is None or not watch.is_reopened or watch.rollout.is_open:
        return
    if watch.rollout.state is RolloutState.LIVE and not registry.automation().is_on:
        return  # it stays to be looked at
    found = judged_again(fold, state, watch, is_automation_on=True)
    if found is not None and _learn_increase(fold, state, registry):
        found = judged_again(fold, state, watch, is_automation_on=True)
    if isinstance(found, Acquit):
        acquit(registry, found, watch.rollout, now_s=fold.now_s, cursor=cursor)
    elif found is not None and state.view.rollout is None and state.view.live_version == watch.rollout.challenger:
        acted = act(registry, found, watch.rollout, state.view, now_s=fold.now_s, cursor=cursor)
        _take(fold, state, acted, found.reason)
    watch.is_reopened = False


def aftermath_evidence(watch: RolloutWatch) -> Json:
    """Return what an audit entry keeps of a look at what followed a rollback."""
    return {"aftermath": [look.body() for look in watch.aftermath.looks()] if watch.aftermath is not None else []}


def _decide_aftermath(fold: Fold, state: RouteState, registry: RegistryStore, cursor: Cursor) -> None:
    """Look, once, whether a rollback helped; one that did not is the world's."""
    watch = state.watch
    if watch is None or watch.aftermath is None or not watch.aftermath.is_over(fold.now_s):
        return
    looks = watch.aftermath.looks()
    if has_not_helped(looks):
        reason = f"the rollback did not help; {'; '.join(map(str, looks))}; the quarantine stays until a person releases it"
        evidence = aftermath_evidence(watch)
        watch.learn(revise(registry, watch.rollout, evidence, reason, now_s=fold.now_s, cursor=cursor))
        world = Attribution.WORLD.value
        state.decision = {"decision": "Revise", "reason": reason, "attribution": world, "evidence": evidence}
        _journal.warning("A rollback did not help", extra={"action": "revise", "route": state.view.name, "reason": reason})
    watch.aftermath.is_judged = True


def _facts(fold: Fold, state: RouteState, watch: RolloutWatch, *, is_automation_on: bool, lag_s: float = 0.0) -> Facts:
    return watch.facts(
        now_s=fold.now_s,
        frozen_by=state.frozen_by(fold.now_s),
        is_automation_on=is_automation_on,
        last_increase_s=state.last_increase_s,
        is_fleet_failing=fold.fleet.is_open(fold.route_count, fold.now_s),
        needs_approval=state.view.needs_approval,
        lag_s=lag_s,
    )


def _decide_drift(fold: Fold, state: RouteState, registry: RegistryStore, cursor: Cursor) -> None:
    if not state.is_drifted or state.drift is None:
        return
    if state.drift.version == state.view.live_version:
        if not registry.automation().is_on:
            return  # it stays due
        evidence = drift_evidence(state.drift)
        acted = roll_back_for_drift(registry, state.view, evidence=evidence, now_s=fold.now_s, cursor=cursor)
        if acted is not None:
            _take(fold, state, acted, "drift")
    state.is_drifted = False


def retraining_request(state: RouteState) -> Request | None:
    """Return what a route would ask of whoever trains; None when its live version's loss did not rise."""
    live = state.view.live_version if state.drift is None else state.drift.version
    return state.retraining.request(live, state.watch, state.drift.incidents if state.drift is not None else ())


def retraining_due(state: RouteState, *, now_s: float, gap_s: float) -> Request | None:
    """Return what is to be asked of whoever trains now; a rise that is to be told to nobody is forgotten."""
    retraining = state.retraining
    request = retraining_request(state)
    if request is None:
        retraining.drop()
        return None
    if now_s < retraining.risen_s + REST_S or request.attribution is Attribution.NONE:
        return None
    is_asked = retraining.asked_s is not None and now_s - retraining.asked_s < gap_s
    if request.attribution is not Attribution.WORLD or is_asked:
        retraining.drop()
        return None
    return request


def _decide_retraining(fold: Fold, state: RouteState, registry: RegistryStore, cursor: Cursor, *, gap_s: float) -> None:
    """Ask for a model to be trained anew where the world made its loss rise, once for each rise."""
    if state.retraining.rise is None or not registry.automation().is_on:
        return  # it stays due
    request = retraining_due(state, now_s=fold.now_s, gap_s=gap_s)
    if request is None:
        return
    ask_retraining(registry, state.view, request, now_s=fold.now_s, cursor=cursor)
    state.retraining.asked(fold.now_s)
    facts = {"action": "ask", "route": state.view.name, "reason": request.why}
    _journal.warning("A model is to be trained anew", extra=facts)


def _take(fold: Fold, state: RouteState, acted: Acted, reason: str) -> None:
    fold.acted(state.view.name, acted.event, acted.rollout, acted.view)
    facts = {"action": acted.event.value, "route": state.view.name, "reason": reason, "is_repeat": acted.is_repeat}
    _journal.warning("The monitor changed a route", extra=facts)


def learn_route(fold: Fold, view: RouteView, ended: Callable[[str], Rollout]) -> None:
    """Take a route at a revision; a rollout that it has no more is over.

    Args:
        ended: Returns how a rollout ended, by its id; raises what the registry raises.
    """
    fold.learn(view)
    state = fold.routes[view.name]
    watch = state.watch
    if watch is not None and watch.rollout.is_open and (state.view.rollout is None or state.view.rollout.id != watch.rollout.id):
        watch.learn(ended(watch.rollout.id), state.view.revision)


def learn_versions(fold: Fold, registry: RegistryStore, model: str, versions: Iterable[str]) -> None:
    """Learn versions that the fold does not know yet.

    Raises:
        StoreFailed: the registry cannot be read.
    """
    for version in versions:
        if (model, version) not in fold.versions:
            fold.versions[model, version] = version_or_none(registry, model, version)


def _read_again(fold: Fold, name: str, registry: RegistryStore) -> None:
    """Take a route as it is now; of one that is gone, or that only its model's champion implies, nothing is decided any more."""
    state = fold.routes[name]
    view = present_view(registry, name) or RouteView(name, state.view.model, 0)
    learn_route(fold, view, registry.rollout)
    if view.revision == 0:
        state.remove(view)
