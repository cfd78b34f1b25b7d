"""One guardrail of a rollout at work: what it takes of records, truths and pairs, its evidence, and the champion's past."""

from __future__ import annotations

from gateway.core.attribution import PastWatch
from gateway.core.evidence import Evidence, Outcome, Outcomes, Side, Trial
from gateway.core.evidence.segments import SegmentReading
from gateway.core.fields import Fields, Json
from gateway.core.guardrails import Finding, Guardrail, Measure, Verdict, judge
from gateway.core.rollouts import Rollout
from gateway.core.sameness import Sameness
from gateway.monitor.measured import VersionOf, kept_of, on_known, on_pair, on_pair_known, on_record

_OF_THE_PAST = (Measure.ERRORS, Measure.LOSS)  # where a rise of the champion alone tells of the world


class Rail:
    """One guardrail. Not shared between threads.

    Attributes:
        has_failed: Whether its verdict is FAIL, dry run or not.
        sameness: Whether one's own measure ever varied; None for other measures.
        on_record, kept_of, on_known, on_pair, on_pair_known: See `monitor/measured.py`; None where it takes nothing.
    """

    def __init__(self, guardrail: Guardrail, rollout: Rollout, version_of: VersionOf, *, epoch_s: float) -> None:
        champion, challenger = rollout.champion, rollout.challenger
        self.guardrail = guardrail
        self.on_record = on_record(guardrail, champion, version_of)
        self.kept_of = kept_of(guardrail, version_of)
        self.on_known = on_known(guardrail)
        self.on_pair = on_pair(guardrail, champion, challenger, version_of)
        self.on_pair_known = on_pair_known(guardrail, champion, challenger, version_of)
        self.has_failed = False
        self.past = PastWatch()
        self.sameness = Sameness(guardrail.units) if guardrail.measure is Measure.EXPRESSION else None
        self._plan = guardrail.evidence_plan(rollout.plan.guardrails_alpha, epoch_s)
        self._evidence = Evidence(self._plan)

    def observe(self, outcome: Outcome) -> None:
        """Take what one prediction says."""
        if self.sameness is not None:
            self.sameness.observe(outcome.value)
        if not self._evidence.observe(outcome):
            return
        if outcome.side is Side.CHAMPION and self.guardrail.measure in _OF_THE_PAST:
            self.past.observe(outcome.value)
        self._look()

    @property
    def is_quiet(self) -> bool:
        """Whether its evidence is below its bound, and takes nothing of a record but its fault, nor of a truth but the loss."""
        takes = (self.on_record, self.kept_of, self.on_known, self.on_pair, self.on_pair_known)
        return not self._evidence.has_reached_bound and all(one is None for one in takes)

    def trial(self, outcomes: Outcomes, until_s: float) -> Trial | None:
        """Return what several outcomes make of quiet evidence; None where they must be taken one by one, see `Evidence.trial`."""
        return self._evidence.trial(outcomes, until_s)

    def take(self, trial: Trial) -> None:
        """Take what `trial` returned."""
        self._evidence.take(trial)
        if self.guardrail.measure in _OF_THE_PAST:
            fresh = trial.fresh
            self.past.observe_all([value for value, is_other in zip(fresh.values, fresh.sides, strict=True) if not is_other])

    def finding(self) -> Finding:
        """Return the verdict."""
        return judge(self.guardrail, self._evidence.reading())

    def segments(self) -> tuple[SegmentReading, ...]:
        """Return the segments of a guardrail that measures fairness; none of another."""
        return self._evidence.segments()

    def remarks(self) -> Json:
        """Return what whoever looks at the verdict should know of what it rests on; empty where there is nothing to say."""
        remarks = {} if self.sameness is None else self.sameness.remark()
        unmet = [one.segment for one in self.segments() if not one.champion_count + one.challenger_count]
        return {**remarks, "unmet_segments": unmet} if unmet else remarks

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        sameness = None if self.sameness is None else self.sameness.state()
        return {"evidence": self._evidence.state(), "past": self.past.state(), "sameness": sameness}

    def restore(self, state: object) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "watch.rails")
        self._evidence = Evidence.restored(self._plan, fields.value("evidence"))
        self.past = PastWatch.restored(fields.value("past"))
        if self.sameness is not None and fields.has("sameness"):
            self.sameness.restore(fields.value("sameness"))
        self._look()

    def _look(self) -> None:
        self.has_failed = self._evidence.has_reached_bound and self.finding().verdict is Verdict.FAIL
