"""One drill: made-up traffic through the monitor's own fold and policy, on a route that exists nowhere else.

A drill has a fold of its own. Nothing of it is logged, committed to the registry, or seen by a real route's fold; what judges is
the code that judges real routes, with the monitor's settings. The same seed and time give the same drill.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np

from gateway.core.fields import Json
from gateway.core.models import Column, Digest, Runtime, Target, Task, Version
from gateway.core.plans import Plan, Step
from gateway.core.policy import Rollback
from gateway.core.profile_bodies import profile_body
from gateway.core.profiles import build_profile
from gateway.core.records import Attempt, GroundTruthRecord, Kind, Offset, Outcome, PredictionRecord, Record
from gateway.core.rollouts import CHALLENGER, CHAMPION, begin
from gateway.core.routes import Revision, Route, Variant, with_weights
from gateway.core.split import SLOTS, hashed_id
from gateway.core.tensors import Array, Datatype, Signature, Tensor, TensorSpec
from gateway.monitor.decide import judged
from gateway.monitor.fold import Fold
from gateway.monitor.merge import Merged
from gateway.monitor.views import RouteView, view_of
from gateway.ports.readings import Detector
from gateway.settings import MonitorSettings

PLACE: Final = "drill"  # route and model
FEATURES: Final = 4
REFERENCE_ROWS: Final = 5_000  # as the detection targets are stated for
PER_S: Final = 100.0  # requests in a second of the drill's time
ERRORS: Final = 0.1  # of attempts; what a service with some trouble has
LOSSES: Final = 0.2  # of answers
HARM: Final = 0.4  # of the challenger's attempts, in the harm drill
SHIFT: Final = 1.0  # standard deviations of one feature, in the drift drill
CALM_REQUESTS: Final = 1_500  # before the shift: a version's first thousand answers are only learned from
AA_REQUESTS: Final = 3_000  # of one A/A rollout
FOUND_REQUESTS_MAX: Final = 2_000  # from the harm on; sound code needs about a tenth


class Drill(enum.Enum):
    """What is made up."""

    AA = "aa"  # a rollout of a version that is like the champion; whatever is found is a false alarm
    DRIFT = "drift"  # one feature moves after a while
    HARM = "harm"  # a rollout of a version that fails more often


class Ending(enum.Enum):
    """How a drill ended."""

    QUIET = "quiet"  # an A/A drill found nothing, as it should
    DETECTED = "detected"  # the harm was found
    MISSED = "missed"  # it was not
    FALSE_ALARM = "false_alarm"  # something was found where nothing was


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a drill.

    Attributes:
        requests: From the harm, or from the beginning of an A/A drill, to the end.
        reason: What was found, in a sentence.
    """

    drill: Drill
    ending: Ending
    requests: int
    reason: str
    ended_at_s: float

    def body(self) -> Json:
        """Return the report as it is shown."""
        return {
            "ending": self.ending.value,
            "requests": self.requests,
            "reason": self.reason,
            "ended_at_s": self.ended_at_s,
        }


class Exercise:
    """A drill under way."""

    def __init__(
        self, drill: Drill, *, seed: int, begin_s: float, detector: Callable[[int], Detector], settings: MonitorSettings
    ) -> None:
        self.drill = drill
        self._random = np.random.default_rng(seed)
        self._begin_s = begin_s
        self._count = 0
        self._fold = Fold(
            detector,
            epoch_s=settings.epoch_s,
            truth_rows_max=AA_REQUESTS,
            false_alarm_events=settings.false_alarm_events,
        )
        self._view = _view(begin_s, has_rollout=drill is not Drill.DRIFT)
        self._fold.learn(self._view)
        self._fold.versions = {(PLACE, name): version(name) for name in (CHAMPION, CHALLENGER)}

    def go_on(self, requests: int) -> Report | None:
        """Make up some more requests and judge; return the report when the drill ended with them."""
        for _ in range(requests):
            for record in self._made_up():
                self._fold.take(Merged(record.time_s, PLACE, Offset(self._count), Offset(self._count), record))
                if (found := self._found()) is not None:
                    return self._ended(found)
            self._count += 1
            if self._count >= self._harm_at + (AA_REQUESTS if self.drill is Drill.AA else FOUND_REQUESTS_MAX):
                return self._ended(None)
        return None

    @property
    def _harm_at(self) -> int:
        return CALM_REQUESTS if self.drill is Drill.DRIFT else 0

    def _found(self) -> str | None:
        """Return what the monitor finds now, in a sentence."""
        fold, state = self._fold, self._fold.routes[PLACE]
        if state.drift is not None and state.drift.incidents:
            return "drift of " + ", ".join(state.drift.incidents[-1].subjects)
        if PLACE not in fold.due or state.watch is None:
            return None
        fold.due.clear()
        decision = judged(fold, state, state.watch, is_automation_on=True)
        return decision.reason if isinstance(decision, Rollback) else None

    def _ended(self, found: str | None) -> Report:
        is_harm = self.drill is not Drill.AA and self._count >= self._harm_at
        if found is None:
            ending = Ending.QUIET if self.drill is Drill.AA else Ending.MISSED
        else:
            ending = Ending.DETECTED if is_harm and self._is_meant() else Ending.FALSE_ALARM
        requests = max(0, self._count - self._harm_at) + (found is not None)
        return Report(self.drill, ending, requests, found or "nothing was found", self._fold.now_s)

    def _is_meant(self) -> bool:
        """Return whether what was found is the harm that was made up, rather than drift where the errors are."""
        drift = self._fold.routes[PLACE].drift
        return (self.drill is Drill.DRIFT) == (drift is not None and bool(drift.incidents))

    def _made_up(self) -> Iterator[Record]:
        """Yield a request with a key of its own, and its ground truth if it was answered."""
        random, time_s = self._random, self._begin_s + self._count / PER_S
        is_challengers = self._view.rollout is not None and random.random() < self._view.share
        name = CHALLENGER if is_challengers else CHAMPION
        has_failed = random.random() < (HARM if is_challengers and self.drill is Drill.HARM else ERRORS)
        features = random.normal(size=(1, FEATURES)).astype(np.float32)
        if self.drill is Drill.DRIFT and self._count >= CALM_REQUESTS:
            features[0, 0] += SHIFT
        answer = random.random((1, 1)).astype(np.float32)
        id = f"{PLACE}-{self._count}"
        yield _record(name, id, time_s, features=features, answer=None if has_failed else answer, revision=self._view.revision)
        if not has_failed:
            is_yes = bool(answer[0, 0] >= 0.5) != (random.random() < LOSSES)
            yield GroundTruthRecord(id, time_s, 0, "yes" if is_yes else "no", time_s)


@cache
def version(name: str) -> Version:
    """Return a made-up binary classifier, whose features are standard normal in its reference."""
    random = np.random.default_rng(1)
    columns = tuple(Column(f"x{at}") for at in range(FEATURES))
    reference = build_profile(columns, {column.name: random.normal(size=REFERENCE_ROWS) for column in columns})
    return Version(
        model=PLACE,
        version=name,
        digest=Digest(""),
        size_bytes=0,
        runtime=Runtime.ONNX,
        runtime_version="",
        signature=Signature(
            (TensorSpec("features", Datatype.FP32, (-1, FEATURES)),), (TensorSpec("probability", Datatype.FP32, (-1, 1)),)
        ),
        target=Target(Task.BINARY, "probability", ("no", "yes"), "yes"),
        columns=columns,
        profile=profile_body(reference),
    )


def _view(begin_s: float, *, has_rollout: bool) -> RouteView:
    """Return the drill's route; with a rollout that gives half of the traffic to the challenger and waits for a person."""
    variants = (Variant(CHAMPION, CHAMPION, SLOTS),)
    route = replace(with_weights(Route(PLACE, PLACE, (), fallback=CHAMPION), variants), last_good=variants, revision=Revision(1))
    if not has_rollout:
        return view_of(route, None)
    plan = Plan(steps=(Step(SLOTS // 2),), advances_itself=False)
    rollout, split = begin(route, id=PLACE, challenger=CHALLENGER, plan=plan, salt=PLACE, now_s=begin_s)
    return view_of(replace(split, revision=Revision(2)), rollout)


def _record(name: str, id: str, time_s: float, *, features: Array, answer: Array | None, revision: int) -> PredictionRecord:
    """Return what a worker would have logged; without an answer the attempt failed."""
    outcome = Outcome.FAILED if answer is None else Outcome.OK
    return PredictionRecord(
        prediction_id=id,
        time_s=time_s,
        kind=Kind.LIVE,  # on the drill's own route; a real route's fold never sees it
        model=PLACE,
        route=PLACE,
        revision=revision,
        assigned=name,
        variant=name,
        version=name,
        digest="",
        attempts=(Attempt(name, name, outcome, 1_000),),
        assignment_key=hashed_id(id),
        is_keyed=True,
        inputs=(Tensor("features", Datatype.FP32, features),),
        outputs=() if answer is None else (Tensor("probability", Datatype.FP32, answer),),
        batch_rows=1,
        batch_position=0,
        runtime_version="",
        outcome=outcome,
        latency_us=1_000,
    )
