"""Records folded together leave the fold as records folded one by one do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adapters.detectors.river import AdwinDetector
from gateway.core.models import Column, Digest, Runtime, Target, Task, Version
from gateway.core.plans import Plan, Step
from gateway.core.profile_bodies import profile_body
from gateway.core.profiles import build_profile
from gateway.core.records import Attempt, GroundTruthRecord, Heartbeat, Kind, Offset, Outcome, Record
from gateway.core.rollouts import CHALLENGER, CHAMPION, Rollout, begin
from gateway.core.routes import Variant, champion_route
from gateway.core.tensors import Datatype, Signature, Tensor
from gateway.monitor import runs
from gateway.monitor.fold import Fold
from gateway.monitor.merge import Merge, Merged
from gateway.monitor.picture import picture
from gateway.monitor.runs import take_run
from gateway.monitor.views import RouteView
from tests.records import numbered_id, prediction

COLUMNS = (Column("a"), Column("b"))
PER_S = 400.0
START_S = 1_000_050.0  # ten seconds before a minute
BINARY = Target(Task.BINARY, "y", ("no", "yes"), "yes")


def version(name: str, target: Target) -> Version:
    sample = np.random.default_rng(1)
    return Version(
        model="delays",
        version=name,
        digest=Digest("0" * 64),
        size_bytes=1,
        runtime=Runtime.ONNX,
        runtime_version="1",
        signature=Signature((), ()),
        target=target,
        columns=COLUMNS,
        profile=profile_body(build_profile(COLUMNS, {column.name: sample.normal(size=500) for column in COLUMNS})),
    )


def new_fold(target: Target = BINARY, *, has_rollout: bool = True, plan: Plan | None = None, **more: Any) -> Fold:
    fold = Fold(AdwinDetector, **{"epoch_s": 4.0, "truth_rows_max": 700, "false_alarm_events": 20_000.0, **more})
    fold.versions = {("delays", name): version(name, target) for name in "12"}
    for name in ("delays", "twin"):
        rollout, _ = begin(
            champion_route(name, "1"), id=name, challenger="2", plan=plan or Plan((Step(3_000),)), salt="s", now_s=0.0
        )
        assert isinstance(rollout, Rollout)
        variants = (
            (Variant(CHAMPION, "1", 7_000), Variant(CHALLENGER, "2", 3_000)) if has_rollout else (Variant(CHAMPION, "1", 10_000),)
        )
        watched = replace(rollout, model="delays", state=rollout.state) if has_rollout else None
        fold.learn(RouteView(name, "delays", 1, variants, rollout=watched))
    return fold


def traffic(count: int, *, odd: float, harm: float = 0.0, has_rollout: bool = True, seed: int = 1) -> list[Merged]:
    """Return records of two routes, of which a part is of every other kind, most of them with their truth soon after."""
    chance, made, answers = random.Random(seed), list[Merged](), list[tuple[str, float, str]]()
    for number in range(count):
        time_s = START_S + number / PER_S
        for record in _records(number, time_s, chance, answers, odd=odd, harm=harm, has_rollout=has_rollout):
            made.append(Merged(time_s, "w0", Offset(len(made)), Offset(len(made) + 1), record))
    return made


def _records(
    number: int,
    time_s: float,
    chance: random.Random,
    answers: list[tuple[str, float, str]],
    *,
    odd: float,
    harm: float,
    has_rollout: bool,
) -> list[Record]:
    is_new = has_rollout and chance.random() < 0.3
    variant, name = (CHALLENGER, "2") if is_new else (CHAMPION, "1")
    said = chance.random()
    record = prediction(
        prediction_id=numbered_id(number),
        time_s=time_s,
        route="delays" if chance.random() < 0.7 else "twin",
        variant=variant,
        version=name,
        assignment_key=f"{chance.randrange(10**9) if chance.random() < 0.8 else number % 40:016x}",
        inputs=(Tensor("x", Datatype.FP32, np.array([[chance.gauss(0, 1), chance.gauss(0.2, 1)]], np.float32)),),
        outputs=(Tensor("y", Datatype.FP32, np.array([[said]], np.float32)),),
    )
    answers.append((record.prediction_id, said, name))
    found: list[Record] = [_odd(record, chance) if chance.random() < odd else record]
    if chance.random() < 0.8:
        id, said, by = answers.pop(chance.randrange(max(0, len(answers) - 900), len(answers)))
        is_wrong = chance.random() < (harm if by == ("2" if has_rollout else "1") else 0.0)
        value = "yes" if (chance.random() < said) != is_wrong else "no"
        row = 0 if chance.random() >= odd else 3
        found.append(GroundTruthRecord(id, time_s, row, value if chance.random() >= odd else "maybe", time_s))
        if chance.random() < odd:
            found.append(GroundTruthRecord(id, time_s, 0, "yes", time_s))
    return [*found, Heartbeat(time_s)] if number % 50 == 0 else found


def _odd(record: Any, chance: random.Random) -> Record:
    kind = chance.randrange(8)
    failed = (Attempt(record.variant, record.version, Outcome.FAILED, 9),)
    wide = (
        Tensor("x", Datatype.FP32, np.full((3, 2), 9.0, np.float32)),
        Tensor("y", Datatype.FP32, np.full((3, 1), 0.5, np.float32)),
    )
    nothing = Tensor("y", Datatype.FP32, np.array([[np.nan]], np.float32))
    return [
        replace(record, outcome=Outcome.FAILED, attempts=failed, outputs=()),
        replace(record, kind=Kind.PINNED),
        replace(record, kind=Kind.SHADOW, shadow_of=numbered_id(1)),
        replace(record, resting=(CHALLENGER,)),
        replace(record, inputs=wide[:1], outputs=wide[1:]),
        replace(record, attempts=(*failed, Attempt(CHAMPION, "1", Outcome.OK, 9)), variant=CHAMPION, version="1"),
        replace(record, outputs=(nothing,)),
        replace(record, time_s=record.time_s - 0.5),
    ][kind]


def one_by_one(fold: Fold, records: Sequence[Merged]) -> list[tuple[int, tuple[str, ...]]]:
    """Fold and return which decisions came due, and when."""
    due = []
    for merged in records:
        fold.take(merged)
        if fold.due:
            due.append((fold.records, tuple(fold.due)))
            fold.due.clear()
    return due


def in_runs(fold: Fold, records: Sequence[Merged]) -> tuple[list[tuple[int, tuple[str, ...]]], int]:
    """Do the same in runs, and return how many records they had as well."""
    due, at, together = [], 0, 0
    while at < len(records):
        following, is_taken = take_run(fold, records[at : at + 400])
        assert following > 0
        if not is_taken:
            due += one_by_one(fold, records[at : at + following])
        together += following * is_taken
        at += following
    return due, together


def everything(fold: Fold) -> str:
    """Return what the fold knows, orders included, as text."""
    watches = {name: state.watch.state() for name, state in fold.routes.items() if state.watch is not None}
    tallies = [
        (
            key,
            one.windows,
            one.rows,
            one.rows_known,
            one.delays.counts,
            one.estimate.cells,
            one.estimate.estimated,
            one.estimate.edges,
        )
        for state in fold.routes.values()
        for key, one in state.tallies.items()
    ]
    drifts = {name: _drift(state.drift.state()) for name, state in fold.routes.items() if state.drift is not None}
    shown = picture(fold, Merge(), lag_s=0.0, drills={}, published_at_s=0.0)
    return repr((watches, drifts, tallies, vars(fold.truth), shown, fold.sampling, fold.now_s, fold.records, fold.unscored))


def _drift(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a drift watch with the rows of its batch in one part each, however they came."""
    since_s, count, *parts = state["batch"]
    return {**state, "batch": (since_s, count, [[row for part in one for row in np.asarray(part).tolist()] for one in parts])}


@pytest.mark.parametrize(
    ("target", "traits", "together_min"),
    [
        (BINARY, {"odd": 0.005}, 1_000),
        (BINARY, {"odd": 0.15}, 0),
        (BINARY, {"odd": 0.005, "harm": 0.9}, 100),
        (Target(Task.REGRESSION, "y", loss_max=1.0), {"odd": 0.0, "has_rollout": False}, 1_000),
        (Target(), {"odd": 0.005}, 1_000),
    ],
)
def test_run_leaves_the_fold_as_one_by_one_does(target, traits, together_min):
    """Decisions come due at the same records, and everything that is known afterwards is the same to the last digit."""
    records = traffic(2_000, **traits)
    if target.task is Task.OTHER:
        records = [one for one in records if not isinstance(one.record, GroundTruthRecord)]
    if target.task is Task.REGRESSION:
        numbers = {"no": 0.25, "yes": 0.75}
        told = [isinstance(one.record, GroundTruthRecord) for one in records]
        records = [
            one._replace(record=replace(one.record, value=numbers[one.record.value])) if is_told else one
            for one, is_told in zip(records, told, strict=True)
        ]
    folds = [new_fold(target, has_rollout=traits.get("has_rollout", True)) for _ in range(2)]

    due = one_by_one(folds[0], records)
    due_in_runs, together = in_runs(folds[1], records)

    assert due_in_runs == due
    assert everything(folds[1]) == everything(folds[0])
    assert together >= together_min


def test_run_of_any_length_leaves_the_fold_as_one_by_one_does(monkeypatch):
    """Also where nearly every run ends with a record that is not alike, and holds a handful."""
    monkeypatch.setattr(runs, "ROUTE_RECORDS_MIN", 1)
    records = traffic(1_500, odd=0.1)
    folds = [new_fold() for _ in range(2)]

    due = one_by_one(folds[0], records)
    due_in_runs, together = in_runs(folds[1], records)

    assert due_in_runs == due
    assert everything(folds[1]) == everything(folds[0])
    assert together > 500


def test_run_that_holds_an_alarm_is_taken_one_by_one():
    """A live version that loses more than it did at first is found at the same record, and the rest is as one by one."""
    records = traffic(1_500, odd=0.0, harm=0.9, has_rollout=False)
    folds = [new_fold(has_rollout=False) for _ in range(2)]
    for fold in folds:
        one_by_one(fold, records[:100])
        drift = fold.routes["delays"].drift
        assert drift is not None
        for number in range(2_000):
            drift.observe_outcome("loss", 0.25 * (number % 2), START_S - 1.0, answered_s=START_S - 1.0)

    due = one_by_one(folds[0], records[100:])
    due_in_runs, together = in_runs(folds[1], records[100:])

    assert due_in_runs == due
    assert everything(folds[1]) == everything(folds[0])
    assert "loss: " in everything(folds[1])
    assert together > 500
