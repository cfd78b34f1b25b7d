"""Everything the log has said of one rollout: evidence per guardrail, the split's own share, bursts, the champion's past.

Folds records in merged order; its findings and facts are what `core/policy.py` decides on. No I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.core.arrivals import Arrivals
from gateway.core.attribution import Attribution, Move, PastWatch, attributed_body
from gateway.core.cohorts import Cohorts, Known
from gateway.core.evidence import EvidencePlan, Outcome, ShareTest, Side, TwoSample
from gateway.core.fields import Fields, Json
from gateway.core.guardrails import Finding, Guardrail, Measure, Verdict, error_value, judge
from gateway.core.policy import BurstWatch, Facts
from gateway.core.records import PredictionRecord
from gateway.core.rollouts import Rollout, rollout_body, rollout_from_body

SIDES: Final[Mapping[str, Side]] = {side.value: side for side in Side}
STEP_KEYS_MAX: Final = 100_000  # counted at one step; a plan that asks for more waits for a person


class RolloutWatch:
    """One rollout, from its first record on.

    Attributes:
        rollout: As last known.
        step_since_s: When its step began, in the log's time.
        arrivals: Whether its ground truth comes alike for both.
        cohorts: What holds ground truth back until it is known alike.
        is_reopened: Whether ground truth came since it ended, so that its end may have to be looked at again.
    """

    def __init__(self, rollout: Rollout, *, epoch_s: float) -> None:
        self.rollout = rollout
        self.step_since_s = rollout.changed_at_s
        self._epoch_s = epoch_s
        self._rails = {rail: TwoSample(self._plan(rail)) for rail in rollout.plan.guardrails}
        self._champion_past = {rail: PastWatch() for rail in rollout.plan.guardrails}
        self._share = ShareTest()
        self.arrivals = Arrivals()
        self.cohorts = Cohorts()
        self.is_reopened = False
        self._burst = BurstWatch()
        self._step_keys: dict[str, None] = {}
        self._failing = dict.fromkeys(rollout.plan.guardrails, False)
        self._was_urgent = False

    def learn(self, rollout: Rollout) -> None:
        """Take the rollout as it stands now; a new step begins to count anew."""
        if rollout.step != self.rollout.step:
            self.step_since_s = rollout.changed_at_s
            self._step_keys = {}
        self.rollout = rollout

    def accepts(self, record: PredictionRecord) -> bool:
        """Return whether a live record is this rollout's evidence, given that its revision belongs to it."""
        return record.revision >= self.rollout.since_revision and record.assigned in SIDES

    def observe(self, record: PredictionRecord, time_s: float, share: float) -> bool:
        """Take a record that `accepts` let through, and return whether a decision became urgent."""
        side = SIDES[record.assigned]
        self._share.observe(record.assignment_key, side, share)
        if not is_compared(record):
            return False
        if side is Side.CHALLENGER and len(self._step_keys) < STEP_KEYS_MAX:
            self._step_keys[record.assignment_key] = None
        value = error_value(record)
        if value is None:
            return False
        self._burst.observe(side, record.assignment_key, time_s, is_fault=value > 0.0)
        return self.observe_value(Measure.ERRORS, Outcome(side, record.assignment_key, value, time_s, share))

    def observe_value(self, measure: Measure, outcome: Outcome) -> bool:
        """Take what one prediction says of one measure, and return whether a decision became urgent."""
        for rail, evidence in self._rails.items():
            if rail.measure is measure and evidence.observe(outcome):
                if outcome.side is Side.CHAMPION:
                    self._champion_past[rail].observe(outcome.value)
                self._failing[rail] = _has_failed(rail, evidence)
        return self._became_urgent()

    def know(self, known: Known, *, answered_s: float, now_s: float) -> bool:
        """Take the loss of an answer that was this rollout's evidence, and return whether a decision became urgent.

        Also after the rollout's end, as long as it is the route's last.
        """
        self.arrivals.observe(known.key, known.side, known.share)
        self.cohorts.know(known, answered_s=answered_s, now_s=now_s)
        self.is_reopened = self.is_reopened or not self.rollout.is_open
        became_urgent = False
        while (one := self.cohorts.pop(now_s)) is not None:
            outcome = Outcome(one.side, one.key, one.value, now_s, one.share)
            became_urgent |= self.observe_value(Measure.LOSS, outcome)
        return became_urgent

    def findings(self) -> list[Finding]:
        """Return the verdict on each guardrail."""
        return [judge(rail, evidence.reading()) for rail, evidence in self._rails.items()]

    def attributed(self, frozen_by: Attribution) -> list[Json]:
        """Return the verdicts as people see them, each with where it comes from."""
        srm, truth, moves = self._share.reading(), self.arrivals.reading(), self._moves()
        return [attributed_body(finding, srm=srm, truth=truth, moves=moves, frozen_by=frozen_by) for finding in self.findings()]

    def facts(self, *, now_s: float, frozen_by: Attribution, is_automation_on: bool, last_increase_s: float | None) -> Facts:
        """Return what else a decision rests on."""
        return Facts(
            now_s=now_s,
            step_since_s=self.step_since_s,
            challenger_keys=len(self._step_keys),
            srm=self._share.reading(),
            truth=self.arrivals.reading(),
            is_burst=self._burst.is_burst,
            moves=self._moves(),
            frozen_by=frozen_by,
            is_automation_on=is_automation_on,
            last_increase_s=last_increase_s,
        )

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {
            "rollout": rollout_body(self.rollout),
            "step_since_s": self.step_since_s,
            "rails": {rail.name: evidence.state() for rail, evidence in self._rails.items()},
            "past": {rail.name: past.state() for rail, past in self._champion_past.items()},
            "share": self._share.state(),
            "arrivals": self.arrivals.state(),
            "cohorts": self.cohorts.state(),
            "is_reopened": self.is_reopened,
            "burst": self._burst.state(),
            "step_keys": list(self._step_keys),
            "was_urgent": self._was_urgent,
        }

    @classmethod
    def restored(cls, state: object, *, epoch_s: float) -> RolloutWatch:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "watch")
        watch = cls(rollout_from_body(fields.value("rollout")), epoch_s=epoch_s)
        watch.step_since_s = fields.number("step_since_s", 0.0, 1e12)
        rails, pasts = Fields(fields.value("rails"), "watch.rails"), Fields(fields.value("past"), "watch.past")
        for rail in watch.rollout.plan.guardrails:
            watch._rails[rail] = TwoSample.restored(watch._plan(rail), rails.value(rail.name))
            watch._champion_past[rail] = PastWatch.restored(pasts.value(rail.name))
            watch._failing[rail] = _has_failed(rail, watch._rails[rail])
        watch._share = ShareTest.restored(fields.value("share"))
        watch.arrivals = Arrivals.restored(fields.value("arrivals"))
        watch.cohorts = Cohorts.restored(fields.value("cohorts"))
        watch.is_reopened = fields.boolean("is_reopened")
        watch._burst = BurstWatch.restored(fields.value("burst"))
        watch._step_keys = dict.fromkeys(str(key) for key in fields.items("step_keys", STEP_KEYS_MAX))
        watch._was_urgent = fields.boolean("was_urgent")
        return watch

    def _moves(self) -> dict[str, Move]:
        return {rail.name: move for rail, past in self._champion_past.items() if (move := past.move()) is not None}

    def _plan(self, rail: Guardrail) -> EvidencePlan:
        return rail.evidence_plan(self.rollout.plan.false_rollback_alpha, self._epoch_s)

    def _became_urgent(self) -> bool:
        """Return whether there is reason to roll back now and there was none before; in between the seconds' decisions do."""
        is_urgent = self._burst.is_burst or any(self._failing.values())
        became, self._was_urgent = is_urgent and not self._was_urgent, is_urgent
        return became


def is_compared(record: PredictionRecord) -> bool:
    """Return whether either variant could have run the request.

    While one rests, the other's answers say nothing either: they would count for it without a counterpart. That is known before
    the split chooses, so leaving them out favours nobody.
    """
    return not any(variant in SIDES for variant in record.resting)


def _has_failed(rail: Guardrail, evidence: TwoSample) -> bool:
    return evidence.has_reached_bound and judge(rail, evidence.reading()).verdict is Verdict.FAIL
