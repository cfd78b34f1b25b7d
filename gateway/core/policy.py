"""What happens to a rollout next: verdicts, attribution and the clock in, one decision out.

Rolling back never waits; going on waits for everything. Evidence between concurrent variants blames a version; a change that
both share blames the world. Pure: whoever acts commits what is decided, with the evidence that comes along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.arrivals import ArrivalReading
from gateway.core.attribution import Attribution, Move, attributed_body
from gateway.core.evidence import ShareReading, Side
from gateway.core.fields import Fields, Json
from gateway.core.guardrails import EvidenceClass, Finding
from gateway.core.rollouts import Rollout, RolloutState

INCREASE_GAP_S: Final = 900.0  # one automatic increase a route in 15 minutes, so that an oscillating fault cannot make it flap
BURST_KEYS: Final = 10  # n: distinct keys of the challenger looked at
BURST_FAULTS: Final = 9  # k of n: at a sound version's error rate of .2 once in 240,000 looks
CALM_KEYS: Final = 1_000  # keys of the champion remembered: what comes beside ten of a challenger at 1 %
CALM_KEYS_MIN: Final = 10  # of the champion in the same time; fewer say nothing
CALM_RATE_MAX: Final = 0.1  # above it the champion has trouble of its own and the two-sample evidence must tell
NO_ARRIVALS: Final = ArrivalReading()
QUARANTINE_S: Final = 1_800.0
QUARANTINE_MAX_S: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What else is known when a decision is due.

    Attributes:
        now_s: The log's time, seconds since the epoch.
        step_since_s: When the step began.
        challenger_keys: Distinct keys of the challenger at this step.
        srm: Of the rollout's assignments.
        truth: Whether the rollout's ground truth can be relied on.
        is_burst: Whether the challenger's own attempts fail one after the other while the champion's do not.
        moves: By guardrail: where the champion stands against its own past.
        frozen_by: WORLD or DATA while a drift incident freezes the route, else NONE.
        is_automation_on: The switch that stops all automatic changes.
        last_increase_s: When the route last advanced by itself, or None.
    """

    now_s: float
    step_since_s: float
    challenger_keys: int
    srm: ShareReading
    truth: ArrivalReading = NO_ARRIVALS
    is_burst: bool = False
    moves: Mapping[str, Move] = field(default_factory=dict)
    frozen_by: Attribution = Attribution.NONE
    is_automation_on: bool = True
    last_increase_s: float | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing changes."""

    reason: str
    attribution: Attribution = Attribution.NONE
    evidence: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advance:
    """On to the next step."""

    reason: str
    attribution: Attribution = Attribution.NONE
    evidence: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rollback:
    """Back to the champion alone, and the challenger's digest into quarantine."""

    reason: str
    attribution: Attribution = Attribution.VERSION
    evidence: Json = field(default_factory=dict)


Decision = Hold | Advance | Rollback  # promotion is a person's, never decided here


def decide(rollout: Rollout, findings: Sequence[Finding], facts: Facts) -> Decision:
    """Return what happens to an open rollout now.

    The first that applies: automation off, hold. Hard faults, roll back. Assignment not as planned, hold: no verdict stands.
    A guardrail failed, roll back, but not for one that needs ground truth while that cannot be relied on; then hold. A guardrail
    failed whose class says no more, both variants got worse, or the route is frozen, hold. Then every reason not to advance.
    Dry runs decide nothing.
    """
    evidence = evidence_body(rollout, findings, facts)
    if not rollout.is_open:
        return Hold(f"the rollout is {rollout.state.value}", evidence=evidence)
    if not facts.is_automation_on:
        return Hold("automation is off", evidence=evidence)
    if facts.is_burst:
        reason = f"hard faults: at least {BURST_FAULTS} of the challenger's last {BURST_KEYS} keys, and the champion is sound"
        return Rollback(reason, Attribution.VERSION, evidence)
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
    if (obstacle := _obstacle(rollout, findings, facts)) is not None:
        return Hold(obstacle, evidence=evidence)
    return Advance("; ".join(finding.reason for finding in findings), evidence=evidence)


def quarantine_s(strikes: int) -> float:
    """Return how long a digest rolled back `strikes` times before stays in quarantine: 30 min × 4^strikes, at most 7 days."""
    return min(QUARANTINE_MAX_S, QUARANTINE_S * 4.0 ** min(strikes, 10))


def _obstacle(rollout: Rollout, findings: Sequence[Finding], facts: Facts) -> str | None:
    """Return why the rollout may not advance by itself now, or None.

    Required guardrails must PASS. The others (ground truth may come late or never) must not lean towards harm: their estimate
    stays under the margin.
    """
    plan = rollout.plan
    if rollout.state is not RolloutState.CANARY:
        return f"the rollout is {rollout.state.value}"
    if not plan.advances_itself:
        return "the plan leaves advancing to a person"
    if rollout.step + 1 >= len(plan.steps):
        return "the last step is reached; promotion is a person's"
    if not findings:
        return "no guardrail was judged"
    if obstacles := [finding.obstacle for finding in findings if finding.obstacle is not None]:
        return obstacles[0]
    if facts.challenger_keys < plan.samples_min:
        return f"{facts.challenger_keys} keys of the challenger at this step, {plan.samples_min} wanted"
    if (rest_s := facts.step_since_s + plan.dwell_s - facts.now_s) > 0:
        return f"{rest_s:.0f} s more at this step"
    if facts.last_increase_s is not None and (rest_s := facts.last_increase_s + INCREASE_GAP_S - facts.now_s) > 0:
        return f"{rest_s:.0f} s since the last automatic increase are missing"
    return None


def evidence_body(rollout: Rollout, findings: Sequence[Finding], facts: Facts) -> Json:
    """Return what an audit entry needs to recompute the decision."""
    return {
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
        "step_since_s": facts.step_since_s,
        "last_increase_s": facts.last_increase_s,
        "now_s": facts.now_s,
    }


class BurstWatch:
    """Hard faults in a row, told by key: one caller who always fails is one key, however often it calls.

    The champion is looked at over the very time in which the challenger's last n keys came, so that trouble which both share is
    no burst, whether it has just begun or is long over.
    """

    def __init__(self) -> None:
        self._recent: dict[Side, dict[str, tuple[float, bool]]] = {side: {} for side in Side}  # by key: (time, is fault)

    def observe(self, side: Side, key: str, time_s: float, *, is_fault: bool) -> None:
        """Take the assigned variant's own attempt, in the log's order; a key's last one stands."""
        recent = self._recent[side]
        recent.pop(key, None)
        recent[key] = (time_s, is_fault)
        if len(recent) > (BURST_KEYS if side is Side.CHALLENGER else CALM_KEYS):
            del recent[next(iter(recent))]

    @property
    def is_burst(self) -> bool:
        """Whether k of the challenger's last n keys failed while the champion's, in that time, did not."""
        challenger = list(self._recent[Side.CHALLENGER].values())
        return sum(is_fault for _, is_fault in challenger) >= BURST_FAULTS and self._was_calm(challenger[0][0], challenger[-1][0])

    def _was_calm(self, since_s: float, until_s: float) -> bool:
        """Return whether few of the champion's keys between two times failed, and there were enough to tell."""
        champion = self._recent[Side.CHAMPION]
        if len(champion) == CALM_KEYS and next(iter(champion.values()))[0] > since_s:
            return False  # of a part of that time nothing is remembered
        within = [is_fault for time_s, is_fault in champion.values() if since_s <= time_s <= until_s]
        return len(within) >= CALM_KEYS_MIN and sum(within) <= CALM_RATE_MAX * len(within)

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {side.value: [[key, *last] for key, last in recent.items()] for side, recent in self._recent.items()}

    @classmethod
    def restored(cls, state: object) -> BurstWatch:
        """Go on from what `state` returned."""
        fields = Fields(state, "burst")
        watch = cls()
        for side in Side:
            for item in fields.items(side.value, CALM_KEYS):
                assert isinstance(item, list)
                watch.observe(side, str(item[0]), float(item[1]), is_fault=bool(item[2]))
        return watch
