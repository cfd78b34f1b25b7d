"""What records, truths and pairs contribute to each measure, through the watch of a rollout."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.evidence import Side
from gateway.core.fields import Json
from gateway.core.guardrail_bodies import guardrails_from_bodies
from gateway.core.guardrails import Finding, Verdict
from gateway.core.losses import loss
from gateway.core.models import Column, ColumnKind, Digest, Runtime, Target, Task, Version
from gateway.core.plans import Plan
from gateway.core.profile_bodies import profile_body
from gateway.core.profiles import build_profile
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.rollouts import CHALLENGER, CHAMPION, begin
from gateway.core.routes import champion_route
from gateway.core.tensors import Datatype, Signature, Tensor
from gateway.monitor.measured import Known
from gateway.monitor.watch import RolloutWatch, Told
from tests.records import prediction

COLUMNS = (Column("delay"), Column("carrier", ColumnKind.CATEGORICAL))
REFERENCE = {"delay": np.linspace(0.0, 10.0, 100), "carrier": np.asarray(["AA", "BB"] * 50, np.object_)}
BINARY = Target(task=Task.BINARY, labels=("on time", "late"), positive="late")
VERSION = Version(
    model="m", version="1", digest=Digest("d"), size_bytes=1, runtime=Runtime.ONNX, runtime_version="1",
    signature=Signature((), ()), target=BINARY, columns=COLUMNS, profile=profile_body(build_profile(COLUMNS, REFERENCE)),
)  # fmt: skip
RECORD = prediction(model="m", route="m", attempts=(), latency_us=500)


def watch_of(*bodies: Json, target: Target = BINARY) -> RolloutWatch:
    plan = Plan(guardrails=guardrails_from_bodies(bodies, "g"))
    rollout, _ = begin(champion_route("m", "1"), id="r", challenger="2", plan=plan, salt="s", now_s=0.0)
    versions = {name: replace(VERSION, version=name, target=target) for name in ("1", "2")}
    return RolloutWatch(rollout, epoch_s=600.0, version_of=versions.get)


def answered(
    at: int,
    *,
    is_challenger: bool,
    answer: Sequence[float] = (0.5,),
    ms: float = 1.0,
    outcome: Outcome = Outcome.OK,
    delay: float = 5.0,
    carrier: bytes | None = b"AA",
) -> PredictionRecord:
    variant, version = (CHALLENGER, "2") if is_challenger else (CHAMPION, "1")
    inputs = (
        Tensor("delay", Datatype.FP32, np.asarray([[delay]], np.float32)),
        Tensor("carrier", Datatype.BYTES, np.asarray([[carrier]], np.object_)),
    )
    outputs = (Tensor("p", Datatype.FP32, np.asarray(answer, np.float32)),)
    return replace(
        RECORD, prediction_id=f"p{at}", assignment_key=f"k{at}", assigned=variant, variant=variant, version=version,
        attempts=(Attempt(variant, version, outcome, int(ms * 1_000)),), inputs=inputs, outcome=outcome,
        outputs=outputs if outcome is Outcome.OK else (),
    )  # fmt: skip


def seen(watch: RolloutWatch, *records: PredictionRecord) -> Finding:
    for record in records:
        watch.observe(record, 0.0, 0.5)
    return watch.findings()[0]


def means(finding: Finding) -> tuple[float, float]:
    return finding.reading.champion_mean, finding.reading.challenger_mean


def test_latency_is_judged_by_the_champions_own_quantile() -> None:
    """After a hundred keys of the champion, what is slower than most of them counts; a slow challenger is convicted by it."""
    watch = watch_of({"measure": "latency", "quantile": 0.9})
    learned = seen(watch, *(answered(at, is_challenger=at % 2 == 1, ms=at / 2) for at in range(199)))
    assert learned.reading.keys == 0
    found = seen(watch, *(answered(at, is_challenger=at % 2 == 1, ms=150.0 if at % 2 else 20.0) for at in range(200, 300)))
    assert means(found) == (0.0, 1.0)
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("latency, above 90:")


def test_invalid_outputs_are_not_numbers_or_out_of_range() -> None:
    """An invalid attempt, an infinity and a number outside the range count; a fault of another kind gave no invalid answer."""
    watch = watch_of({"measure": "invalid_outputs", "low": 0, "high": 1})
    found = seen(
        watch,
        answered(0, is_challenger=True, answer=[0.2]),
        answered(1, is_challenger=True, answer=[1.2]),
        answered(2, is_challenger=True, answer=[math.inf]),
        answered(3, is_challenger=True, outcome=Outcome.INVALID),
        answered(4, is_challenger=True, outcome=Outcome.FAILED),
        answered(5, is_challenger=True, outcome=Outcome.ABANDONED),
        answered(6, is_challenger=False, answer=[1.0]),
    )
    assert (found.reading.challenger_count, found.reading.champion_count) == (5, 1)
    assert means(found) == (0.0, pytest.approx(3 / 5))


def test_outputs_are_compared_in_the_declared_range_or_among_the_champions() -> None:
    """With a range the means are in its units; without one an answer's place among the champion's counts. Either way is harm."""
    ranged = watch_of({"measure": "outputs", "low": -10, "high": 10})
    found = seen(ranged, *(answered(at, is_challenger=at % 2 == 1, answer=[99.0 if at % 2 else -4.0]) for at in range(100)))
    assert means(found) == (pytest.approx(-4.0), pytest.approx(10.0))
    placed = watch_of({"measure": "outputs"})
    seen(placed, *(answered(at, is_challenger=False, answer=[at / 100]) for at in range(100)))
    found = seen(placed, *(answered(at, is_challenger=at % 2 == 1, answer=[0.1 if at % 2 else 0.5]) for at in range(100, 200)))
    assert means(found) == (pytest.approx(0.505, abs=0.01), pytest.approx(0.105, abs=0.01))
    assert found.verdict is Verdict.FAIL


def test_data_quality_counts_requests_with_a_value_apart() -> None:
    """Missing, unseen and out of range each count; with a column only that one is looked at."""
    everything, carrier = watch_of({"measure": "data_quality"}), watch_of({"measure": "data_quality", "column": "carrier"})
    records = [
        answered(0, is_challenger=True),
        answered(1, is_challenger=True, delay=11.0),
        answered(2, is_challenger=True, delay=math.nan),
        answered(3, is_challenger=True, carrier=b"ZZ"),
        answered(4, is_challenger=False),
    ]
    assert means(seen(everything, *records)) == (0.0, pytest.approx(3 / 4))
    assert means(seen(carrier, *records)) == (0.0, pytest.approx(1 / 4))


def test_column_that_the_log_does_not_have_says_nothing() -> None:
    """A dropped column is neither missing nor unseen, the others are judged as ever; a hash is a segment's name, and no value."""
    empty = Tensor("carrier", Datatype.BYTES, np.empty((1, 0), np.object_))

    def dropped(record: PredictionRecord) -> PredictionRecord:
        return replace(record, inputs=(record.inputs[0], empty), dropped=("carrier",))

    records = [dropped(answered(at, is_challenger=at > 0, delay=11.0 if at == 1 else 5.0)) for at in range(3)]
    assert means(seen(watch_of({"measure": "data_quality"}), *records)) == (0.0, pytest.approx(1 / 2))
    assert seen(watch_of({"measure": "data_quality", "column": "carrier"}), *records).reading.challenger_count == 0
    told = watch_of({"measure": "expression", "expression": 'feature.carrier == "9f0c"', "low": 0, "high": 1})
    hashed = replace(answered(1, is_challenger=True, carrier=b"9f0c"), hashed=("carrier",))
    assert seen(told, *records, hashed).reading.challenger_count == 0
    fair = watch_of({"measure": "fairness", "column": "carrier", "of": "positives"})
    assert seen(fair, *records).reading.challenger_count == 0
    named = watch_of({"measure": "fairness", "column": "carrier", "of": "positives"})
    for at in range(600):
        found = seen(named, replace(answered(at, is_challenger=at % 2 > 0, carrier=b"9f0c"), hashed=("carrier",)))
    assert found.reading.challenger_count > 0


def test_answer_that_the_log_does_not_have_says_nothing() -> None:
    """Two answers that were left out are no agreement, none of them is valid, and no guardrail has a number of them."""

    def left_out(record: PredictionRecord) -> PredictionRecord:
        return replace(record, outputs=(Tensor("p", Datatype.FP32, np.empty((1, 0), np.float32)),), dropped=("p",))

    bodies = (
        {"measure": "invalid_outputs", "low": 0, "high": 1},
        {"measure": "outputs", "low": 0, "high": 1},
        {"measure": "fairness", "column": "carrier", "of": "positives"},
        {"measure": "expression", "expression": "answer", "low": 0, "high": 1},
        {"measure": "disagreement"},
        {"measure": "loss"},
    )
    watch = watch_of(*bodies)
    for at in range(100):
        record = left_out(answered(at, is_challenger=at % 2 == 1))
        watch.observe(record, 0.0, 0.5)
        watch.observe_pairable(record, 0.0)
        watch.observe_pairable(left_out(copied(record, 0.1)), 0.0)
        watch.observe_truth(record.prediction_id, 0, "late", 1.0)
    readings = [finding.reading for finding in watch.findings()]
    assert [(reading.keys, reading.challenger_count) for reading in readings] == [(0, 0)] * len(bodies)


def test_fairness_compares_what_the_challenger_changes_by_segment() -> None:
    """A challenger that says late of all BB and as before of AA widens the gap by its full height."""
    watch = watch_of({"measure": "fairness", "column": "carrier", "of": "positives"})
    carriers, found = (b"AA", b"BB"), watch.findings()[0]
    for at in range(600):
        is_challenger, carrier = at % 4 >= 2, carriers[at % 2]
        late = 0.9 if is_challenger and carrier == b"BB" else 0.1
        found = seen(watch, answered(at, is_challenger=is_challenger, answer=[late], carrier=carrier))
    assert means(found) == (0.0, pytest.approx(1.0)) or means(found) == (0.0, pytest.approx(-1.0))
    assert found.verdict is Verdict.FAIL
    assert found.reading.subject in ("AA", "BB")


def test_fairness_by_number_keeps_segments_apart_that_differ_late() -> None:
    """Segments of seven digits and of fractions are each its own, and a plan names them by their numbers."""
    for one, other in ((1_234_567, 1_234_571), (0.1, 0.100001)):
        watch = watch_of({"measure": "fairness", "column": "delay", "of": "positives", "segments": [one, other]})
        found = watch.findings()[0]
        for at in range(600):
            is_challenger, delay = at % 4 >= 2, (one, other)[at % 2]
            late = 0.9 if is_challenger and delay == other else 0.1
            found = seen(watch, answered(at, is_challenger=is_challenger, answer=[late], delay=delay))
        assert (found.verdict, found.reading.subject in (str(one), str(other))) == (Verdict.FAIL, True)


def test_expression_is_read_from_the_record_and_shown_in_its_units() -> None:
    """Names, features and units are the analyst's; text that equals none of the names is compared as text."""
    watch = watch_of({"measure": "expression", "expression": 'latency_ms * (feature.carrier == "AA")', "low": 0, "high": 100})
    found = seen(
        watch,
        answered(0, is_challenger=True, ms=30.0),
        answered(1, is_challenger=True, ms=500.0),
        answered(2, is_challenger=False, ms=30.0, carrier=b"BB"),
        answered(3, is_challenger=False, carrier=None),
    )
    assert means(found) == (0.0, pytest.approx(65.0))
    assert (found.reading.champion_count, found.reading.challenger_count) == (1, 2)


def tell(watch: RolloutWatch, record: PredictionRecord, truth: str) -> None:
    version = replace(VERSION, version=record.version)
    wrong = loss(version.target, record.outputs, 0, truth)
    assert wrong is not None
    known = Known(version, record.outputs[0], 0, truth, wrong)
    watch.know(Told(record.prediction_id, Side(record.assigned), record.assignment_key, 0.5, 0.0), known, now_s=1.0)


def test_truth_joins_what_the_request_said() -> None:
    """A loss by segment and an expression with truth and features are told with the request's own values, after a restart too."""
    bodies: list[Json] = [
        {"measure": "fairness", "column": "carrier", "of": "loss"},
        {"measure": "expression", "expression": "loss * feature.delay", "low": 0, "high": 10},
        {"measure": "calibration"},
        {"measure": "loss"},
    ]
    watch, records = watch_of(*bodies), []
    for at in range(40):
        records.append(answered(at, is_challenger=at % 2 == 1, answer=[0.9], delay=4.0, carrier=(b"AA", b"BB")[at % 4 // 2]))
        watch.observe(records[-1], 0.0, 0.5)
    restored = RolloutWatch.restored(
        pickle.loads(pickle.dumps(watch.state())), epoch_s=600.0, version_of={"1": VERSION, "2": VERSION}.get
    )
    for at, record in enumerate(records):
        for one in (watch, restored):
            tell(one, record, "on time" if at % 2 else "late")
    assert restored.findings() == watch.findings()
    fair, cost, calibrated, wrong = watch.findings()
    assert means(cost) == (0.0, pytest.approx(4.0))
    assert means(wrong) == (0.0, 1.0)
    assert fair.reading.challenger_count == 20
    assert means(fair) == (0.0, 0.0)  # worse for both alike
    assert calibrated.reading.challenger_mean > 0.5


def test_dry_run_is_shown_and_convicts_nobody() -> None:
    """A guardrail on trial comes to its verdict and says so, and the finding is no reason to do anything."""
    watch = watch_of({"measure": "invalid_outputs", "low": 0, "high": 1, "is_dry_run": True}, {"measure": "errors"})
    dry = seen(watch, *(answered(at, is_challenger=at % 2 == 1, answer=[9.0 * (at % 2)]) for at in range(200)))
    assert dry.verdict is Verdict.FAIL
    assert (dry.convicts, dry.holds, dry.obstacle) == (False, False, None)
    assert "(dry run)" in dry.reason


@pytest.mark.parametrize(("letters", "convicts", "holds"), [("S1", True, False), ("S4", True, False), ("S5", False, True)])
def test_class_says_what_a_breach_may_do(letters: str, convicts: bool, holds: bool) -> None:
    """What compares variants may roll back; what speaks of the world or the assignment may only hold."""
    watch = watch_of({"measure": "errors", "class": letters})
    outcomes = (Outcome.OK, Outcome.FAILED)
    found = seen(watch, *(answered(at, is_challenger=at % 2 == 1, outcome=outcomes[at % 2]) for at in range(100)))
    assert (found.convicts, found.holds) == (convicts, holds)


def copied(live: PredictionRecord, answer: float) -> PredictionRecord:
    return replace(
        live, prediction_id=f"{live.prediction_id}-copy", kind=Kind.SHADOW, variant="copy", assigned="copy", version="2",
        shadow_of=live.prediction_id, outputs=(Tensor("p", Datatype.FP32, np.asarray([answer], np.float32)),),
    )  # fmt: skip


def test_shadow_is_compared_with_the_answer_it_copies() -> None:
    """Answers on different sides of the threshold disagree; with the truth known, the one that was wrong has the loss."""
    watch = watch_of({"measure": "disagreement"}, {"measure": "shadow_loss"})
    for at in range(60):
        live = answered(at, is_challenger=False, answer=[0.9])
        copy = copied(live, 0.1 if at % 2 else 0.8)
        watch.observe_pairable(live, 0.0)
        watch.observe_pairable(copy, 0.0)
        if at == 30:
            watch = RolloutWatch.restored(
                pickle.loads(pickle.dumps(watch.state())), epoch_s=600.0, version_of={"1": VERSION, "2": VERSION}.get
            )
        watch.observe_truth(live.prediction_id, 0, "late", 1.0)
    disagreement, paired = watch.findings()
    assert (disagreement.reading.keys, disagreement.reading.estimate) == (60, 0.5)
    assert means(paired) == (0.0, 0.5)
    assert (disagreement.verdict, paired.verdict) == (Verdict.FAIL, Verdict.FAIL)


def test_numbers_agree_within_a_tolerance() -> None:
    """Two numbers nearer than the tolerance are the same answer."""
    target = Target(task=Task.REGRESSION, loss_max=10.0)
    watch = watch_of({"measure": "disagreement", "tolerance": 0.5}, target=target)
    for at, answer in enumerate((10.4, 10.6, 9.6)):
        live = answered(at, is_challenger=False, answer=[10.0])
        watch.observe_pairable(live, 0.0)
        watch.observe_pairable(copied(live, answer), 0.0)
    assert watch.findings()[0].reading.estimate == pytest.approx(1 / 3)


def test_copy_without_its_live_answer_says_nothing() -> None:
    """A shadow of another version, or of an answer that failed, makes no pair."""
    watch = watch_of({"measure": "disagreement"})
    live = answered(0, is_challenger=False)
    watch.observe_pairable(copied(live, 0.1), 0.0)
    watch.observe_pairable(answered(0, is_challenger=False, outcome=Outcome.FAILED), 0.0)
    watch.observe_pairable(copied(live, 0.1), 0.0)
    watch.observe_pairable(live, 0.0)
    watch.observe_pairable(replace(copied(live, 0.1), version="3"), 0.0)
    assert watch.findings()[0].reading.keys == 0
