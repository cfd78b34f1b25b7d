"""What happens to a rollout next: verdicts, attribution and the clock in, one decision out.

Rolling back never waits; going on waits for everything. Evidence between concurrent variants blames a version; a change that
both share blames the world. Pure: whoever acts commits what is decided, with the evidence that comes along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.core.arrivals import ArrivalReading
from gateway.core.attribution import Attribution, Move, attributed_body
from gateway.core.evidence import ShareReading
from gateway.core.fields import Json
from gateway.core.guardrails import PAIRED, EvidenceClass, Finding, Verdict
from gateway.core.hindsight import Help, Worsening, would_help
from gateway.core.plans import HoldOutcome, Inconclusive
from gateway.core.rollouts import Event, Rollout, RolloutState
from gateway.core.trouble import BURST_FAULTS, BURST_KEYS
from gateway.core.troubles import LAG_S

INCREASE_GAP_S: Final = 900.0  # one automatic increase a route in 15 minutes, so that an oscillating fault cannot make it flap
NO_ARRIVALS: Final = ArrivalReading()
INCREASES: Final = frozenset({Event.ADVANCE, Event.PROMOTE})  # what gives callers to the challenger
_PHASES: Final = frozenset({RolloutState.SHADOW, RolloutState.CANARY, RolloutState.BAKING})  # that pass with time
QUARANTINE_S: Final = 1_800.0
QUARANTINE_MAX_S: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What else is known when a decision is due.

    Attributes:
        now_s: The log's time, seconds since the epoch.
        step_since_s: When the rollout's phase (the shadow, a step, the bake time) began.
        seen_s: How long its records have come; less than the time since it began where none did.
        hindsight: After a promotion, what both versions answered to the same requests.
        worsening: That the promoted version got worse by its own past; what `hindsight` says counts from then on.
        stalled: Why `seen_s` grows no more; empty while it does.
        challenger_keys: Distinct keys of the challenger in this phase.
        srm: Of the rollout's assignments.
        truth: Whether the rollout's ground truth can be relied on.
        passed_over: Live predictions of the rollout that a monitor over its budget did not look at.
        is_burst: Whether the challenger's own attempts fail one after the other while the champion's do not.
        moves: By guardrail: where the champion stands against its own past.
        frozen_by: WORLD or DATA while a drift incident freezes the route, else NONE.
        is_automation_on: The switch that stops all automatic changes.
        last_increase_s: When the route's challenger last got more weight by itself, or None.
        is_fleet_failing: Whether so many routes were rolled back lately that nothing is raised by itself (see `FleetBreaker`).
        needs_approval: Whether the route wants a person's approval before a promotion.
        lag_s: How far what was read of the log is behind the clock; beyond `LAG_S` nothing is raised by itself.
        quarantined_until_s: Until when the challenger's digest is in quarantine, by a rollout of another route; 0 if it is not.
    """

    now_s: float
    step_since_s: float
    seen_s: float
    challenger_keys: int
    srm: ShareReading
    truth: ArrivalReading = NO_ARRIVALS
    passed_over: int = 0
    is_burst: bool = False
    moves: Mapping[str, Move] = field(default_factory=dict)
    frozen_by: Attribution = Attribution.NONE
    is_automation_on: bool = True
    last_increase_s: float | None = None
    is_fleet_failing: bool = False
    needs_approval: bool = False
    stalled: str = ""
    hindsight: Sequence[Finding] = ()
    worsening: Worsening | None = None
    lag_s: float = 0.0
    quarantined_until_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """No weight changes.

    Attributes:
        event: HOLD when the rollout is held from now on, None when nothing is written.
    """

    reason: str
    attribution: Attribution = Attribution.NONE
    evidence: Json = field(default_factory=dict)
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """On to the next phase.

    Attributes:
        event: ADVANCE to a step, BAKE, ASK for approval, PROMOTE, RESUME from a hold, or SETTLE after the cool-down.
    """

    reason: str
    attribution: Attribution = Attribution.NONE
    evidence: Json = field(default_factory=dict)
    event: Event = Event.ADVANCE


@dataclass(frozen=True, slots=True)
class Rollback:
    """Back to the champion alone.

    Attributes:
        event: CONVICT, which puts the challenger's digest into quarantine, or GIVE_UP, which blames nobody.
    """

    reason: str
    attribution: Attribution = Attribution.VERSION
    evidence: Json = field(default_factory=dict)
    event: Event = Event.CONVICT


Decision = Hold | Advance | Rollback


def decide(rollout: Rollout, findings: Sequence[Finding], facts: Facts) -> Decision:
    """Return what happens to a rollout now.

    The first that applies: automation off, hold. Hard faults, roll back. After the promotion, go back if the version before is
    shown better, or let it go when it is time. Assignment not as planned, hold: no verdict stands. A guardrail failed, roll back,
    but not for one that needs ground truth while that cannot be relied on; then hold. A guardrail failed whose class says no
    more, both variants got worse, or the route is frozen, hold. Then every reason not to go on. A hold that lasts becomes what
    the plan says. Dry runs decide nothing.
    """
    evidence = evidence_body(rollout, findings, facts)
    if not rollout.is_watched:
        return Hold(f"the rollout is {rollout.state.value}", evidence=evidence)
    if not facts.is_automation_on:
        return Hold("automation is off", evidence=evidence)
    if facts.is_burst:
        reason = f"hard faults: at least {BURST_FAULTS} of the challenger's last {BURST_KEYS} keys, and the champion is sound"
        return Rollback(reason, Attribution.VERSION, evidence)
    if not rollout.is_open:
        return _cooling(rollout, findings, facts, evidence)
    decision = _judged(rollout, findings, facts, evidence)
    return decision if not isinstance(decision, Hold) else _ended_hold(rollout, findings, facts, decision)


def _cooling(rollout: Rollout, findings: Sequence[Finding], facts: Facts, evidence: Json) -> Decision:
    """Return what happens after a promotion: only what both versions answered to the same requests still tells them apart.

    Two alarms that know nothing of each other must agree before the version's own worsening takes it back: its past says that it
    got worse, and the version before, asked from then on, that it did not. In a world that gets worse the first is right about a
    sound version as well, so the second alone keeps to the part of alpha that the plan leaves it.
    """
    paired = [finding for finding in findings if finding.guardrail.measure in PAIRED and finding.convicts]
    if failed := [finding for finding in paired if not (facts.truth.doubt and finding.guardrail.needs_truth)]:
        reason = f"version {rollout.champion} in the shadow does better: {'; '.join(finding.reason for finding in failed)}"
        return Rollback(reason, Attribution.VERSION, evidence)
    asked = [finding for finding in facts.hindsight if not (facts.truth.doubt and finding.guardrail.needs_truth)]
    helps = Help.UNKNOWN if facts.worsening is None else would_help(asked, facts.worsening.outcome)
    if facts.worsening is not None and helps is Help.YES:
        found = "; ".join(one.reason for one in asked if one.verdict is Verdict.FAIL)
        reason = f"{facts.worsening.why}; version {rollout.champion} in the shadow does better: {found}"
        return Rollback(reason, Attribution.VERSION, evidence)
    if (rest_s := rollout.cools_until_s - facts.now_s) > 0:
        reason = f"promoted; version {rollout.champion} stays in the shadow for {rest_s:.0f} s more"
        if facts.worsening is not None:
            reason = f"{reason}; {facts.worsening.why}; would going back help: {helps.value}"
        return Hold(reason, Attribution.WORLD if helps is Help.NO else Attribution.NONE, evidence)
    return Advance(f"version {rollout.champion} cooled down", evidence=evidence, event=Event.SETTLE)


def _judged(rollout: Rollout, findings: Sequence[Finding], facts: Facts, evidence: Json) -> Decision:
    """Return what the verdicts say of an open rollout, whatever it has waited for until now."""
    if facts.srm.is_mismatch:
        reason = f"assignment: {facts.srm.challenger_keys} of {facts.srm.keys} keys, planned {facts.srm.share:.2%}"
        return Hold(reason, Attribution.ASSIGNMENT, evidence)
    doubt = facts.truth.doubt
    stands = [finding for finding in findings if not (doubt and finding.guardrail.needs_truth)]
    held = [finding for finding in stands if finding.holds]
    if void := [finding for finding in held if finding.guardrail.evidence_class is EvidenceClass.ASSIGNMENT]:
        return Hold(void[0].reason, Attribution.ASSIGNMENT, evidence)
    if failed := [finding for finding in stands if finding.convicts]:
        return Rollback("; ".join(finding.reason for finding in failed), Attribution.VERSION, evidence)
    if doubt:
        return Hold(doubt, Attribution.ASSIGNMENT, evidence)
    if held:
        return Hold(held[0].reason, Attribution.WORLD, evidence)
    if worse := [f"{name}: {move}" for name, move in facts.moves.items() if move.has_risen]:
        return Hold("the champion got worse too: " + "; ".join(worse), Attribution.WORLD, evidence)
    if facts.frozen_by is not Attribution.NONE:
        return Hold("a drift incident freezes the route", facts.frozen_by, evidence)
    obstacle = _unproven(rollout, findings, facts) or _not_yet(rollout, facts)
    if obstacle is not None:
        is_stalled = facts.stalled and rollout.state in _PHASES
        return Hold(f"{obstacle}; {facts.stalled}" if is_stalled else obstacle, evidence=evidence)
    reason = "; ".join(finding.reason for finding in findings)
    return Advance(reason, evidence=evidence, event=_next_event(rollout, facts))


def quarantine_s(strikes: int, first_s: float = QUARANTINE_S) -> float:
    """Return how long a digest rolled back `strikes` times before stays in quarantine: first_s × 4^strikes, at most 7 days."""
    return min(QUARANTINE_MAX_S, first_s * 4.0 ** min(strikes, 10))


def _unproven(rollout: Rollout, findings: Sequence[Finding], facts: Facts) -> str | None:
    """Return why the challenger's soundness is not established in this phase, or why that is a person's matter; else None.

    Required guardrails must PASS. The others (ground truth may come late or never) must not lean towards harm: their estimate
    stays under the margin. In the shadow, where the challenger answers nobody, a guardrail that heard nothing says nothing.
    """
    plan = rollout.plan
    match rollout.state:
        case RolloutState.AWAITING_APPROVAL:
            return "a person's approval is awaited"
        case RolloutState.HELD:
            return f"the rollout is held: {rollout.reason}" if rollout.reason else "the rollout is held"
        case _ if not plan.advances_itself:
            return "the plan leaves going on to a person"
    is_shadow = rollout.state is RolloutState.SHADOW
    heard = [one for one in findings if not is_shadow or one.guardrail.measure in PAIRED or one.reading.challenger_count]
    if not findings:
        return "no guardrail was judged"
    if obstacles := [finding.obstacle for finding in heard if finding.obstacle is not None]:
        return obstacles[0]
    _, samples_min = _wanted(rollout)
    if facts.challenger_keys < samples_min:
        return f"{facts.challenger_keys} keys of the challenger in this phase, {samples_min} wanted"
    return None


def _not_yet(rollout: Rollout, facts: Facts) -> str | None:
    """Return what time, or the rest of the fleet, has against going on now; None when nothing."""
    dwell_s, _ = _wanted(rollout)
    if (rest_s := dwell_s - facts.seen_s) > 0:
        return f"{rest_s:.0f} s more in this phase"
    event = _next_event(rollout, facts)
    if event is Event.PROMOTE and not rollout.plan.promotes_itself:
        return "baked; the plan leaves promotion to a person"
    if event not in INCREASES:
        return None
    if facts.lag_s > LAG_S:
        return f"the monitor is {facts.lag_s:.0f} s behind; nothing is raised by itself until it has read what came since"
    if (rest_s := facts.quarantined_until_s - facts.now_s) > 0:
        return f"version {rollout.challenger} is in quarantine for {rest_s:.0f} s more, and is not raised by itself until then"
    if facts.is_fleet_failing:
        return "too many routes were rolled back lately; nothing is raised by itself until that is over"
    if facts.last_increase_s is not None and (rest_s := facts.last_increase_s + INCREASE_GAP_S - facts.now_s) > 0:
        return f"{rest_s:.0f} s since the last automatic increase are missing"
    return None


def _wanted(rollout: Rollout) -> tuple[float, int]:
    """Return the least seconds and the least keys of the challenger in a rollout's phase."""
    plan = rollout.plan
    if rollout.state is RolloutState.SHADOW and plan.shadow is not None:
        return plan.shadow.dwell_s, plan.shadow.samples_min
    if rollout.state is RolloutState.BAKING:
        return plan.bake_s, 1
    return plan.steps[rollout.step].dwell_s, plan.steps[rollout.step].samples_min


def _next_event(rollout: Rollout, facts: Facts) -> Event:
    if rollout.state is RolloutState.BAKING:
        return Event.ASK if facts.needs_approval else Event.PROMOTE
    is_last = rollout.state is RolloutState.CANARY and rollout.step + 1 >= len(rollout.plan.steps)
    return Event.BAKE if is_last else Event.ADVANCE


def _ended_hold(rollout: Rollout, findings: Sequence[Finding], facts: Facts, hold: Hold) -> Decision:
    """Return what a hold becomes when it has lasted for as long as the plan lets it; until then the hold itself."""
    plan, evidence = rollout.plan, hold.evidence
    if rollout.state in (RolloutState.HELD, RolloutState.AWAITING_APPROVAL):
        if facts.now_s < rollout.changed_at_s + plan.hold_timeout_s or plan.hold_outcome is HoldOutcome.STAY:
            return hold
        if plan.hold_outcome is HoldOutcome.ROLLBACK:
            return _given_up(f"nobody ended the hold within {plan.hold_timeout_s:.0f} s; {hold.reason}", hold)
        if rollout.state is RolloutState.AWAITING_APPROVAL:
            return hold
        return Advance(f"the hold ended after {plan.hold_timeout_s:.0f} s", hold.attribution, evidence, Event.RESUME)
    is_proven = hold.attribution is Attribution.NONE and _unproven(rollout, findings, facts) is None
    if is_proven or not plan.advances_itself or facts.now_s < facts.step_since_s + _wanted(rollout)[0] + plan.patience_s:
        return hold
    reason = f"inconclusive for {plan.patience_s:.0f} s; {hold.reason}"
    if plan.inconclusive is Inconclusive.ROLLBACK:
        return _given_up(reason, hold)
    if plan.inconclusive is Inconclusive.ADVANCE and _may_go_on(rollout, findings, facts, hold):
        return hold if _not_yet(rollout, facts) else Advance(reason, evidence=evidence, event=_next_event(rollout, facts))
    return replace(hold, reason=reason, event=Event.HOLD)


def _leans(finding: Finding) -> bool:
    rail = finding.guardrail
    is_over = rail.direction.harm_of(finding.reading.estimate) >= rail.margin
    return is_over and finding.verdict is not Verdict.PASS and not rail.is_dry_run


def _may_go_on(rollout: Rollout, findings: Sequence[Finding], facts: Facts, hold: Hold) -> bool:
    """Return whether nothing but a verdict is missing."""
    is_clean = hold.attribution is Attribution.NONE and not any(_leans(finding) for finding in findings)
    return is_clean and facts.challenger_keys >= _wanted(rollout)[1]


def _given_up(reason: str, hold: Hold) -> Rollback:
    return Rollback(reason, hold.attribution, hold.evidence, Event.GIVE_UP)


def evidence_body(rollout: Rollout, findings: Sequence[Finding], facts: Facts) -> Json:
    """Return what an audit entry needs to recompute the decision."""
    return {
        "state": rollout.state.value,
        "step": rollout.step,
        "guardrails": [
            attributed_body(finding, srm=facts.srm, truth=facts.truth, moves=facts.moves, frozen_by=facts.frozen_by)
            for finding in findings
        ],
        "srm": facts.srm.body(),
        "truth": facts.truth.body(),
        "is_burst": facts.is_burst,
        "moves": {name: move.body() for name, move in facts.moves.items()},
        "frozen_by": facts.frozen_by.value,
        "challenger_keys": facts.challenger_keys,
        "passed_over": facts.passed_over,
        "step_since_s": facts.step_since_s,
        "seen_s": facts.seen_s,
        "hindsight": [finding.body() for finding in facts.hindsight],
        "last_increase_s": facts.last_increase_s,
        "needs_approval": facts.needs_approval,
        "now_s": facts.now_s,
    }
