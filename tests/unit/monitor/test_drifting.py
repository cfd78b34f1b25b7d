"""A version's drift watch: the same alarms however the log was read, and bounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adapters.detectors.river import AdwinDetector
from gateway.core.models import Column, ColumnKind, Digest, Runtime, Target, Task, Version
from gateway.core.profile_bodies import profile_body
from gateway.core.profiles import build_profile
from gateway.core.records import PredictionRecord
from gateway.core.summaries import Statistic, Summary
from gateway.core.tensors import Datatype, Signature, Tensor
from gateway.monitor.columns import SLOT_ROWS, WINDOW_ROWS
from gateway.monitor.drifting import DriftWatch
from gateway.monitor.rows import answer_column, feature_values, joined_columns
from tests.records import numbered_id, prediction

COLUMNS = (Column("size"), Column("carrier", ColumnKind.CATEGORICAL))
CARRIERS = np.array([b"UA", b"DL", b"AA"], np.object_)


def _version(task: Task = Task.BINARY) -> Version:
    random = np.random.default_rng(1)
    reference = {"size": random.normal(size=2_000), "carrier": random.choice(CARRIERS, 2_000)}
    return Version(
        model="delays",
        version="1",
        digest=Digest("0" * 64),
        size_bytes=1,
        runtime=Runtime.ONNX,
        runtime_version="1",
        signature=Signature((), ()),
        target=Target(task, "y"),
        columns=COLUMNS,
        profile=profile_body(build_profile(COLUMNS, reference)),
    )


def _record(number: int, size: float, carrier: bytes, answer: np.ndarray) -> PredictionRecord:
    return prediction(
        prediction_id=numbered_id(number),
        time_s=number / 100,
        inputs=(
            Tensor("size", Datatype.FP32, np.array([[size]], np.float32)),
            Tensor("carrier", Datatype.BYTES, np.array([[carrier]], np.object_)),
        ),
        outputs=(Tensor("y", Datatype.FP32, answer),),
    )


def _records(count: int, *, shift: float = 0.0, strange: float = 0.0, first: int = 0, seed: int = 2) -> list[PredictionRecord]:
    random = np.random.default_rng(seed)
    return [
        _record(
            number,
            random.normal() + shift,
            b"??" if random.random() < strange else random.choice(CARRIERS),
            random.random((1, 1)).astype(np.float32),
        )
        for number in range(first, first + count)
    ]


def _watch(version: Version | None = None) -> DriftWatch:
    return DriftWatch(version or _version(), AdwinDetector, false_alarm_events=100_000.0)


def _fed(watch: DriftWatch, records: list[PredictionRecord]) -> DriftWatch:
    for record in records:
        watch.observe(record, record.time_s)
    return watch


def test_drift_watch_tells_the_world_from_the_data():
    """A feature that moves is the world's doing, categories never seen before are the data's; both become incidents."""
    moved = _fed(_watch(), [*_records(1_500), *_records(1_500, shift=1.5, first=1_500, seed=3)])
    strange = _fed(_watch(), [*_records(1_500), *_records(1_500, strange=0.3, first=1_500, seed=3)])

    assert [(i.attribution.value, i.subjects) for i in moved.incidents] == [("WORLD", ("size",))]
    assert [(i.attribution.value, i.subjects) for i in strange.incidents] == [("DATA", ("carrier",))]
    assert strange.bodies()[0]["apart"]["unseen"] > 0.1


def test_drift_watch_says_how_the_last_answers_are_spread():
    """Nothing before there is a reference; then about a tenth in each range of the first answers, and all are counted."""
    assert _fed(DriftWatch(_version(), AdwinDetector, false_alarm_events=1e6), _records(10)).answers() == {}
    shares = _fed(DriftWatch(_version(), AdwinDetector, false_alarm_events=1e6), _records(4_000)).answers()
    assert len(shares) == 10
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares.values()) < 0.3


def test_drift_watch_compares_answers_with_its_own_first_ones():
    """Without any reference for answers, the first thousand are one, and later ones that lie elsewhere raise an alarm."""
    watch = _fed(_watch(), _records(2_500))
    assert {body["feature"] for body in watch.bodies()} == {"size", "carrier", "answer"}
    assert watch.incidents == ()

    high = [replace(r, outputs=(Tensor("y", Datatype.FP32, r.outputs[0].data / 4),)) for r in _records(1_000, first=2_500)]

    assert _fed(watch, high).incidents[0].subjects == ("answer",)


def test_drift_watch_watches_what_has_no_columns():
    """An image's brightness and a text's length are compared with the version's own first rows; restored it goes on exactly."""
    summaries = (Summary("image", Statistic.MEAN), Summary("image", Statistic.PROJECTION, 2), Summary("text", Statistic.LENGTH))
    version, random = replace(_version(), columns=(), profile=None, summaries=summaries), np.random.default_rng(5)

    def record(number: int) -> PredictionRecord:
        image = random.normal(loc=0.12 * (number > 2_000), size=(1, 3, 8, 8)).astype(np.float32)
        text = np.array([[b"word " * int(random.integers(1, 20))]], np.object_)
        inputs = (Tensor("image", Datatype.FP32, image), Tensor("text", Datatype.BYTES, text))
        return replace(_record(number, 0.0, b"", random.random((1, 1)).astype(np.float32)), inputs=inputs)

    records = [record(number) for number in range(2_300)]
    whole, parted = _fed(_watch(version), records), _watch(version)
    parted.restore(_fed(_watch(version), records[:1_700]).state())

    assert [incident.subjects for incident in whole.incidents] == [("mean of image",)]
    assert _fed(parted, records[1_700:]).bodies() == whole.bodies()
    assert whole.unreadable == 0


def test_drift_watch_restored_goes_on_exactly():
    """Restored at any point, in the middle of a batch too, it raises the same alarms and shows the same figures."""
    records = [*_records(1_700), *_records(1_500, shift=0.7, first=1_700, seed=3)]
    whole = _fed(_watch(), records)
    for cut in (77, 1_100, 2_000):
        first, parted = _fed(_watch(), records[:cut]), _watch()
        parted.bodies()  # to look changes nothing
        parted.restore(first.state())

        assert parted.bodies() == first.bodies()
        assert _fed(parted, records[cut:]).bodies() == whole.bodies()
        assert parted.incidents == whole.incidents != ()


@pytest.mark.parametrize("is_wide", [True, False])
def test_drift_watch_looks_at_some_rows_of_a_wide_record(is_wide):
    """Of 30,500 rows every 31st is looked at, whatever their form: what is found is what these rows alone give."""
    columns = (Column("size"), Column("weight"))
    random = np.random.default_rng(1)
    profile = profile_body(build_profile(columns, {column.name: random.normal(size=2_000) for column in columns}))
    version = replace(_version(), columns=columns, profile=profile)

    def record(values: np.ndarray, answers: np.ndarray) -> PredictionRecord:
        named = tuple(Tensor(column.name, Datatype.FP32, values[:, [at]]) for at, column in enumerate(columns))
        inputs = (Tensor("both", Datatype.FP32, values),) if is_wide else named
        return prediction(inputs=inputs, outputs=(Tensor("y", Datatype.FP32, answers),))

    values, answers = random.normal(size=(30_500, 2)).astype(np.float32), random.random((30_500, 1)).astype(np.float32)
    whole, few = _watch(version), _watch(version)
    whole.observe(record(values, answers), 1.0)
    few.observe(record(values[::31], answers[::31]), 1.0)

    assert whole.readings()[0].rows == len(values[::31]) == 984
    assert whole.bodies() == few.bodies()
    assert whole.against_training() == few.against_training()


def test_drift_watch_bounds_its_window():
    """The stability index speaks of the last rows only."""
    watch = _fed(_watch(), _records(6_000))

    assert {body["rows"] for body in watch.bodies()} <= set(range(WINDOW_ROWS, WINDOW_ROWS + 2 * SLOT_ROWS))


def test_drift_watch_counts_inputs_it_cannot_read():
    """A record without the version's columns is counted, and its answer still is watched."""
    watch = _watch()
    odd = [replace(record, inputs=record.inputs[:1]) for record in _records(1_200)]
    _fed(watch, odd)

    assert watch.unreadable == 1_200
    assert watch.answer.watch is not None


def test_features_are_read_from_both_forms():
    """One wide tensor and one input a column give the same columns; anything else gives none."""
    wide = Tensor("features", Datatype.FP32, np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
    named = tuple(Tensor(name, Datatype.FP32, wide.data[:, at : at + 1]) for at, name in enumerate(("a", "b")))
    columns = (Column("a"), Column("b"))

    assert feature_values(columns, named[:1]) is None
    assert feature_values((*columns, Column("c")), (wide,)) is None
    for forms in ((wide, wide), (named, named), (wide, named)):
        parts = [feature_values(columns, form if isinstance(form, tuple) else (form,)) for form in forms]
        joined = joined_columns([part for part in parts if part is not None])
        assert [column.tolist() for column in joined] == [[1.0, 3.0, 1.0, 3.0], [2.0, 4.0, 2.0, 4.0]]


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        (np.array([[0.25], [0.5]], np.float32), ColumnKind.NUMERIC, [0.25, 0.5]),
        (np.array([[0.25, 0.75]], np.float32), ColumnKind.NUMERIC, [0.75]),
        (np.array([[0.1, 0.2, 0.7]], np.float32), ColumnKind.CATEGORICAL, [2]),
        (np.array([b"late"], np.object_), ColumnKind.CATEGORICAL, [b"late"]),
    ],
)
def test_answer_becomes_a_column(answer, kind, expected):
    """A probability, a pair, scores and labels each become one value a row."""
    column, values = answer_column(_version(), (Tensor("y", Datatype.FP32, answer),))

    assert (column.kind, values.tolist()) == (kind, expected)


def _without(record: PredictionRecord) -> PredictionRecord:
    """The record as the log has it when `carrier` is dropped."""
    size, carrier = record.inputs
    gone = Tensor("carrier", Datatype.BYTES, np.empty((1, 0), np.object_))
    return replace(record, inputs=(size, gone), dropped=("carrier",)) if carrier.name == "carrier" else record


def test_drift_watch_leaves_out_what_the_log_does_not_have():
    """A dropped column is neither missing nor unreadable: the others are watched as ever, and restored it goes on exactly."""
    records = [_without(record) for record in [*_records(1_500), *_records(1_500, shift=1.5, first=1_500, seed=3)]]
    whole, parted = _fed(_watch(), records), _watch()
    parted.restore(_fed(_watch(), records[:700]).state())

    assert [(i.attribution.value, i.subjects) for i in whole.incidents] == [("WORLD", ("size",))]
    assert whole.unreadable == 0
    assert {body["feature"] for body in whole.bodies()} == {"size", "answer"}
    assert _fed(parted, records[700:]).bodies() == whole.bodies()


def test_drift_watch_begins_anew_when_the_log_has_other_columns():
    """Once a column is in the log again it is watched, from the training profile on."""
    watch = _fed(_watch(), [_without(record) for record in _records(200)])
    assert "carrier" not in {body["feature"] for body in watch.bodies()}
    _fed(watch, _records(200, first=200))
    assert "carrier" in {body["feature"] for body in watch.bodies()}
    assert watch.unreadable == 0


def test_hashed_columns_of_a_wide_input_are_left_out():
    """Hashes are no features: of a wide input the other columns remain, of one hashed as a whole none."""
    columns = (Column("a"), Column("b"))
    wide = Tensor("x", Datatype.FP32, np.array([[1.0, 2.0]], np.float32))
    values = feature_values(columns, (wide,), hidden=("a",))
    assert values is not None
    assert np.asarray(values).tolist() == [[2.0]]
    assert feature_values(columns, (wide,), hidden=("x",)) is None
