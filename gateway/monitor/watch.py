"""Everything the log has said of one rollout: evidence per guardrail, the split's own share, bursts, the champion's past.

Folds records in merged order; its findings and facts are what `core/policy.py` decides on. No I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from gateway.core import cohorts
from gateway.core.aftermath import Aftermath, blames_of
from gateway.core.arrivals import Arrivals
from gateway.core.attribution import Attribution, Move, attribute, attributed_body
from gateway.core.cohorts import Cohorts
from gateway.core.evidence import COUNT_MAX, Outcome, Side, Trial
from gateway.core.evidence.segments import SegmentReading
from gateway.core.fields import Fields, Json
from gateway.core.guardrails import Finding, Measure, error_value, own_attempt
from gateway.core.hindsight import Worsening
from gateway.core.losses import Truth
from gateway.core.policy import Facts
from gateway.core.records import FAULTS, Kind, PredictionRecord
from gateway.core.records import Outcome as Ended
from gateway.core.rollouts import Rollout, RolloutState, rollout_body, rollout_from_body
from gateway.monitor.hindsight import EVEN, Hindsight
from gateway.monitor.keeping import Keeping
from gateway.monitor.measured import Contribution, Known, VersionOf
from gateway.monitor.pairs import Pairs
from gateway.monitor.phase import Phase, RunOfRollout, Told
from gateway.monitor.rails import Rail
from gateway.monitor.sides import SIDES, is_compared, side_beside


def _unknown(version: str) -> None:
    """No version is known: only what needs none is measured."""


class RolloutWatch:
    """One rollout, from its first record on.

    Attributes:
        rollout: As last known.
        arrivals: Whether its ground truth comes alike for both.
        pairs: Both versions' answers to the same requests; None where no guardrail asks for them.
        cohorts: What holds ground truth back until it is known alike.
        hindsight: What the version before answers to the same requests since the promotion; None before.
        worsening: That the promoted version got worse by its own past; None while it did not.
        aftermath: What the champion does alone since the challenger was convicted; None before.
        is_reopened: Whether its end may have to be looked at again: ground truth came since, or spoke against the version when it
            was promoted.
        passed_over: Its live predictions that were not looked at, because their keys are not in the monitor's share.
    """

    def __init__(self, rollout: Rollout, *, epoch_s: float, version_of: VersionOf = _unknown) -> None:
        self.rollout = rollout
        self._rails = [Rail(guardrail, rollout, version_of, epoch_s=epoch_s) for guardrail in rollout.plan.guardrails]
        self._by_fault = [rail for rail in self._rails if rail.guardrail.measure is Measure.ERRORS]
        self._by_record = [(rail, rail.on_record) for rail in self._rails if rail.on_record is not None]
        self._by_known = [(rail, rail.on_known) for rail in self._rails if rail.on_known is not None]
        self._keeping = Keeping(self._rails)
        self.pairs: Pairs | None = None
        if any(rail.on_pair or rail.on_pair_known for rail in self._rails):
            self.pairs = Pairs(rollout, version_of, keeps=any(rail.on_pair_known for rail in self._rails))
        self._phase = Phase(rollout)
        self.arrivals = Arrivals()
        self.cohorts = Cohorts()
        self.is_reopened = False
        self.passed_over = 0
        self._hindsight_of = partial(Hindsight, version_of=version_of, epoch_s=epoch_s)
        self.hindsight = self._hindsight_of(rollout) if rollout.is_cooling else None
        self.worsening: Worsening | None = None
        self.aftermath: Aftermath | None = None
        self._was_urgent = False

    def learn(self, rollout: Rollout, revision: int = 0) -> None:
        """Take the rollout as it stands now; a new phase begins to count anew.

        Args:
            revision: Of the route, as the rollout has it now; a phase with another split begins with records from it on.
        """
        self._phase.learn(self.rollout, rollout, revision)
        if rollout.state is RolloutState.QUARANTINED and self.rollout.state is not RolloutState.QUARANTINED:
            self._begin_aftermath(revision, rollout.changed_at_s)
        if rollout.state is RolloutState.LIVE and self.rollout.is_open:
            self.is_reopened = any(rail.has_failed and rail.guardrail.needs_truth for rail in self._rails)
        self.rollout = rollout
        if self.hindsight is None and rollout.is_cooling:
            self.hindsight = self._hindsight_of(rollout)

    def observe_after(self, record: PredictionRecord) -> None:
        """Take a live record of the route after a conviction."""
        after, own = self.aftermath, own_attempt(record)
        if after is None or after.is_judged or record.revision < after.revision or own is None:
            return
        fault = error_value(record)
        if fault is not None and own.version == self.rollout.champion:
            after.observe(Measure.ERRORS, record.assignment_key, fault)

    def know_after(self, version: str, key: str, loss: float, *, answered_s: float) -> None:
        """Take a loss of a version that is no evidence of the rollout."""
        after = self.aftermath
        if after is not None and not after.is_judged and version == self.rollout.champion and answered_s >= after.since_s:
            after.observe(Measure.LOSS, key, loss)

    def wants_look(self, now_s: float) -> bool:
        """Return whether the end of the rollout is to be looked at again."""
        return self.is_reopened or (self.aftermath is not None and self.aftermath.is_over(now_s))

    def _begin_aftermath(self, revision: int, since_s: float) -> None:
        findings = [*self.findings(), *(self.hindsight.findings() if self.hindsight is not None else ())]
        blames = blames_of(findings, is_burst=self._phase.burst.is_burst)
        self.aftermath = Aftermath(blames, revision=revision, since_s=since_s) if blames else None

    @property
    def hears_pairs(self) -> bool:
        """Whether both versions' answers to the same requests are compared."""
        return self.pairs is not None or self.hindsight is not None

    def worsen(self, version: str, worsening: Worsening) -> None:
        """Take that a version is worse than it was at first; a promoted one's shadow is asked from the first time on.

        Not anew with each: every beginning would be another chance to blame a sound version.
        """
        if self.hindsight is not None and self.rollout.is_cooling and version == self.rollout.challenger:
            if self.worsening is None:
                self.hindsight.begin_anew()
            self.worsening = worsening

    def accepts(self, record: PredictionRecord) -> bool:
        """Return whether a live record is this rollout's evidence, given that its revision belongs to it."""
        return record.revision >= self.rollout.since_revision and record.assigned in SIDES

    def observe(self, record: PredictionRecord, time_s: float, share: float) -> bool:
        """Take a record that `accepts` let through, and return whether a decision became urgent."""
        side = SIDES[record.assigned]
        self._phase.clock.observe(record.revision, time_s)
        self._phase.share.observe(record.assignment_key, side, share)
        if not is_compared(record):
            return False
        if side is Side.CHALLENGER:
            self._phase.count_key(record.assignment_key, record.revision)
        fault = error_value(record)
        if fault is not None:
            self._phase.burst.observe(side, record.assignment_key, time_s, is_fault=fault > 0.0)
            outcome = Outcome(side, record.assignment_key, fault, time_s, share)
            for rail in self._by_fault:
                rail.observe(outcome)
        for rail, on_record in self._by_record:
            found = on_record(record)
            if found is not None:
                rail.observe(_outcome(found, side, record.assignment_key, time_s, share))
        self._keeping.keep(record)
        return self._became_urgent()

    @property
    def takes_runs(self) -> bool:
        """Whether nothing but the evidence of errors and losses, the split's share and the arrival of truth are told of records.

        And none of that is near a decision but the evidence, which `trial` is asked of.
        """
        if self.hears_pairs or self.aftermath is not None or self.rollout.state is RolloutState.SHADOW or self._was_urgent:
            return False
        return self._phase.burst.is_far_from_burst and not self.cohorts.held and all(rail.is_quiet for rail in self._rails)

    @property
    def is_over(self) -> bool:
        """Whether its rollout ended, and live answers say nothing of it any more."""
        return not self.rollout.is_open and not self.hears_pairs and (self.aftermath is None or self.aftermath.is_judged)

    def trial(self, run: RunOfRollout, until_s: float) -> list[tuple[Rail, Trial]] | None:
        """Return what a run makes of each rail; None where its records must be taken one by one, see `Evidence.trial`."""
        found = []
        for rail in self._rails:
            outcomes = run.told if rail.guardrail.needs_truth else run.seen
            if outcomes.keys:
                trial = rail.trial(outcomes, until_s)
                if trial is None:
                    return None
                found.append((rail, trial))
        return found

    def take(self, run: RunOfRollout, trials: Sequence[tuple[Rail, Trial]]) -> None:
        """Take a run whose `trial` this is; nothing in it makes a decision urgent."""
        told = run.told
        self._phase.take(run)
        if told.keys:
            self.arrivals.observe_all(told.keys, told.sides, told.shares)
            self.is_reopened = self.is_reopened or not self.rollout.is_open
        for rail, trial in trials:
            rail.take(trial)
        self.cohorts.take(run.cohorts)

    def observe_pairable(self, record: PredictionRecord, time_s: float) -> bool:
        """Take a live answer or a shadow's at a revision of the rollout, and return whether a decision became urgent."""
        if self.hindsight is not None:
            self.hindsight.observe(record, time_s)
        pair = self.pairs.observe(record) if self.pairs is not None else None
        if pair is None:
            return False
        for rail in self._rails:
            found = rail.on_pair(pair) if rail.on_pair is not None else None
            if found is not None:
                rail.observe(_outcome(found, Side.CHALLENGER, record.assignment_key, time_s, EVEN))
        return self._became_urgent()

    def observe_truth(self, prediction_id: str, row: int, truth: Truth, time_s: float) -> bool:
        """Take the truth of one row of a live prediction that may have a pair, and return whether a decision became urgent."""
        if self.hindsight is not None:
            self.hindsight.know(prediction_id, row, truth, time_s)
        paired = self.pairs.known(prediction_id) if self.pairs is not None else None
        if paired is None:
            return False
        key, pair = paired
        for rail in self._rails:
            found = rail.on_pair_known(pair, row, truth) if rail.on_pair_known is not None else None
            if found is not None:
                rail.observe(_outcome(found, Side.CHALLENGER, key, time_s, EVEN))
        return self._became_urgent()

    def observe_beside(self, record: PredictionRecord, time_s: float) -> bool:
        """Take a record while one of the two versions answers and the other sees copies; return whether a decision became urgent.

        Hard faults alone are told from these: of the challenger in the shadow, and of the promoted version while it cools down.
        """
        side = side_beside(self.rollout, record)
        if side is None or not record.attempts or record.attempts[0].outcome is Ended.ABANDONED:
            return False
        self._phase.clock.observe(record.revision, time_s)
        if record.kind is Kind.SHADOW and side is Side.CHALLENGER:
            self._phase.count_key(record.assignment_key, record.revision)
        self._phase.burst.observe(side, record.assignment_key, time_s, is_fault=record.attempts[0].outcome in FAULTS)
        return self._became_urgent()

    def observe_value(self, measure: Measure, outcome: Outcome) -> bool:
        """Take what one prediction says of one measure, and return whether a decision became urgent."""
        for rail in self._rails:
            if rail.guardrail.measure is measure:
                rail.observe(outcome)
        return self._became_urgent()

    def know(self, told: Told, known: Known, *, now_s: float) -> bool:
        """Take the truth of an answer that was this rollout's evidence, and return whether a decision became urgent.

        Also after the rollout's end, as long as it is the route's last.
        """
        others = self._others(told.prediction_id, known) if self._by_known else ()
        self.arrivals.observe(told.key, told.side, told.share)
        held = cohorts.Known(told.side, told.key, known.loss, told.share, others)
        self.cohorts.know(held, answered_s=told.answered_s, now_s=now_s)
        self.is_reopened = self.is_reopened or not self.rollout.is_open
        became_urgent = False
        while (one := self.cohorts.pop(now_s)) is not None:
            became_urgent |= self._take(one, now_s)
        return became_urgent

    def _others(self, prediction_id: str, known: Known) -> tuple[tuple[str, float, float, str], ...]:
        """Return what the truth contributes to guardrails beside the loss: name, value, beside, segment of each."""
        kept = {} if known.row else self._keeping.taken(prediction_id)  # it is the first row's
        found = {
            rail.guardrail.name: on_known(replace(known, kept=kept.get(rail.guardrail.name))) for rail, on_known in self._by_known
        }
        return tuple((name, one.value, one.beside, one.segment) for name, one in found.items() if one is not None)

    def _take(self, known: cohorts.Known, now_s: float) -> bool:
        contributions = {name: Contribution(value, beside, segment) for name, value, beside, segment in known.others}
        for rail, _ in self._by_known:
            if (found := contributions.get(rail.guardrail.name)) is not None:
                rail.observe(_outcome(found, known.side, known.key, now_s, known.share))
        return self.observe_value(Measure.LOSS, Outcome(known.side, known.key, known.value, now_s, known.share))

    def findings(self) -> list[Finding]:
        """Return the verdict on each guardrail."""
        return [rail.finding() for rail in self._rails]

    def segments(self) -> dict[str, tuple[SegmentReading, ...]]:
        """Return the segments of each guardrail that measures fairness, by its name."""
        return {rail.guardrail.name: found for rail in self._rails if (found := rail.segments())}

    def attributed(self, frozen_by: Attribution) -> list[Json]:
        """Return the verdicts as people see them, each with where it comes from."""
        srm, truth, moves = self._phase.share.reading(), self.arrivals.reading(), self._moves()
        return [
            attributed_body(rail.finding(), srm=srm, truth=truth, moves=moves, frozen_by=frozen_by) | rail.remarks()
            for rail in self._rails
        ]

    def world_loss(self) -> Move | None:
        """Return how the champion's loss rose where that is the world's doing; None where it did not rise, or is not."""
        risen = {name: move for name, move in self._moves().items() if move.has_risen}
        if not risen:
            return None
        srm, truth = self._phase.share.reading(), self.arrivals.reading()
        for finding in self.findings():
            move = risen.get(finding.guardrail.name)
            if finding.guardrail.measure is Measure.LOSS and move is not None:
                found = attribute(finding, srm=srm, doubt=truth.doubt, move=move, frozen_by=Attribution.NONE)
                if found.attribution is Attribution.WORLD:
                    return move
        return None

    def facts(
        self,
        *,
        now_s: float,
        frozen_by: Attribution,
        is_automation_on: bool,
        last_increase_s: float | None,
        is_fleet_failing: bool = False,
        needs_approval: bool = False,
        lag_s: float = 0.0,
    ) -> Facts:
        """Return what else a decision rests on."""
        return Facts(
            now_s=now_s,
            step_since_s=self.rollout.since_s,
            challenger_keys=len(self._phase.keys),
            srm=self._phase.share.reading(),
            truth=self.arrivals.reading(),
            passed_over=self.passed_over,
            is_burst=self._phase.burst.is_burst,
            moves=self._moves(),
            frozen_by=frozen_by,
            is_automation_on=is_automation_on,
            last_increase_s=last_increase_s,
            is_fleet_failing=is_fleet_failing,
            needs_approval=needs_approval,
            seen_s=self._phase.clock.passed_s(now_s),
            stalled=self._phase.clock.stalled(now_s),
            hindsight=tuple(self.hindsight.findings()) if self.hindsight is not None else (),
            worsening=self.worsening,
            lag_s=lag_s,
        )

    def state(self) -> Json:
        """Return everything needed to go on exactly; JSON, but for what guardrails keep of requests and pairs."""
        return {
            "rollout": rollout_body(self.rollout),
            "rails": {rail.guardrail.name: rail.state() for rail in self._rails},
            "kept": self._keeping.state(),
            "pairs": None if self.pairs is None else self.pairs.state(),
            **self._phase.state(),
            "arrivals": self.arrivals.state(),
            "cohorts": self.cohorts.state(),
            "is_reopened": self.is_reopened,
            "passed_over": self.passed_over,
            "aftermath": None if self.aftermath is None else self.aftermath.state(),
            "hindsight": None if self.hindsight is None else self.hindsight.state(),
            "worsening": None if self.worsening is None else [self.worsening.outcome, self.worsening.why],
            "was_urgent": self._was_urgent,
        }

    @classmethod
    def restored(cls, state: object, *, epoch_s: float, version_of: VersionOf = _unknown) -> RolloutWatch:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "watch")
        watch = cls(rollout_from_body(fields.value("rollout")), epoch_s=epoch_s, version_of=version_of)
        rails = Fields(fields.value("rails"), "watch.rails")
        for rail in watch._rails:
            rail.restore(rails.value(rail.guardrail.name))
        watch._keeping.restore(fields.mapping("kept"))
        if watch.pairs is not None:
            watch.pairs.restore(fields.mapping("pairs"))
        watch._phase.restore(fields)
        watch.arrivals = Arrivals.restored(fields.value("arrivals"))
        watch.cohorts = Cohorts.restored(fields.value("cohorts"))
        watch.is_reopened = fields.boolean("is_reopened")
        watch.passed_over = fields.integer("passed_over", 0, COUNT_MAX)
        if watch.hindsight is None and fields.has("hindsight"):
            watch.hindsight = watch._hindsight_of(watch.rollout)
        if watch.hindsight is not None:
            watch.hindsight.restore(fields.value("hindsight"))
        if fields.has("aftermath"):
            watch.aftermath = Aftermath.restored(fields.value("aftermath"))
        if fields.has("worsening"):
            watch.worsening = Worsening(*map(str, fields.items("worsening", 2)))
        watch._was_urgent = fields.boolean("was_urgent")
        return watch

    def _moves(self) -> dict[str, Move]:
        return {rail.guardrail.name: move for rail in self._rails if (move := rail.past.move()) is not None}

    def _became_urgent(self) -> bool:
        """Return whether there is reason to roll back now and there was none before; in between the seconds' decisions do."""
        is_urgent = self._phase.burst.is_burst
        for rail in self._rails:
            is_urgent = is_urgent or rail.has_failed
        became, self._was_urgent = is_urgent and not self._was_urgent, is_urgent
        return became


def _outcome(found: Contribution, side: Side, key: str, time_s: float, share: float) -> Outcome:
    return Outcome(side, key, found.value, time_s, share, found.beside, found.segment)
