"""The reverse shadow at work: pairs of a promoted version and of the version before, from its copies.

Errors pair a live attempt with its copy's; losses wait for their ground truth. Bounded, the oldest dropped first. Folds records;
what it means is `core/hindsight.py`'s to say.
"""

from __future__ import annotations

from typing import Final, cast

from gateway.core.evidence import Evidence, Outcome, Side
from gateway.core.fields import Fields, Json
from gateway.core.guardrails import Finding, error_value, judge
from gateway.core.hindsight import ERRORS, LOSS, RAILS, paired_plan
from gateway.core.losses import Truth, loss
from gateway.core.records import FAULTS, Kind, PredictionRecord
from gateway.core.records import Outcome as Ended
from gateway.core.rollouts import PREVIOUS, Rollout
from gateway.monitor.measured import VersionOf
from gateway.monitor.pairs import LIVE_MAX, Pairs

EVEN: Final = 0.5  # in place of a share, where nothing was split


class Hindsight:
    """What the two versions of a promoted rollout answer to the same requests. Not shared between threads."""

    def __init__(self, rollout: Rollout, version_of: VersionOf, *, epoch_s: float) -> None:
        self._rollout = rollout
        self._version_of = version_of
        alpha = rollout.plan.hindsight_alpha
        self._plans = {name: paired_plan(name, alpha, epoch_s) for name in RAILS}
        self._evidence = {name: Evidence(plan) for name, plan in self._plans.items()}
        self._pairs = Pairs(rollout, version_of, keeps=True)
        self._faults: dict[str, float] = {}  # of live attempts that wait for their copy, by prediction id

    def begin_anew(self) -> None:
        """Gather evidence from nothing: what was alike before says nothing of what happens now."""
        self._evidence = {name: Evidence(plan) for name, plan in self._plans.items()}

    def observe(self, record: PredictionRecord, time_s: float) -> None:
        """Take a live answer or a copy after the promotion, in the log's order."""
        self._pairs.observe(record)
        if record.kind is Kind.LIVE:
            fault = error_value(record)
            if fault is not None and record.attempts[0].version == self._rollout.challenger:
                self._faults[record.prediction_id] = fault
                if len(self._faults) > LIVE_MAX:
                    del self._faults[next(iter(self._faults))]
            return
        is_its = record.variant == PREVIOUS and record.version == self._rollout.champion
        if not is_its or not record.attempts or record.attempts[0].outcome is Ended.ABANDONED:
            return
        fault = self._faults.pop(record.shadow_of, None)
        if fault is not None:
            beside = float(record.attempts[0].outcome in FAULTS)
            self._add(ERRORS, record.assignment_key, fault, beside=beside, time_s=time_s)

    def know(self, prediction_id: str, row: int, truth: Truth, time_s: float) -> None:
        """Take the ground truth of one row of a live prediction that may have a pair."""
        found = self._pairs.known(prediction_id)
        champion, challenger = self._version_of(self._rollout.champion), self._version_of(self._rollout.challenger)
        if found is None or champion is None or challenger is None:
            return
        key, pair = found
        beside = loss(champion.target, (pair.champion,), row, truth)
        value = loss(challenger.target, (pair.challenger,), row, truth)
        if beside is not None and value is not None:
            self._add(LOSS, key, value, beside=beside, time_s=time_s)

    def findings(self) -> list[Finding]:
        """Return what the pairs say of errors and of loss: FAIL where the version before does better."""
        return [judge(rail, self._evidence[name].reading()) for name, rail in RAILS.items()]

    def state(self) -> Json:
        """Return everything needed to go on exactly."""
        evidence = {name: one.state() for name, one in self._evidence.items()}
        return {"evidence": evidence, "pairs": self._pairs.state(), "faults": dict(self._faults)}

    def restore(self, state: object) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "hindsight")
        saved = Fields(fields.value("evidence"), "hindsight.evidence")
        self._evidence = {name: Evidence.restored(plan, saved.value(name)) for name, plan in self._plans.items()}
        self._pairs.restore(fields.mapping("pairs"))
        self._faults = cast("dict[str, float]", fields.mapping("faults"))

    def _add(self, name: str, key: str, value: float, *, beside: float, time_s: float) -> None:
        self._evidence[name].observe(Outcome(Side.CHALLENGER, key, value, time_s, EVEN, beside))
