"""Records that weigh as much as a request may neither stop the archive nor the questions to it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from adapters.logs.codec import decode, encode
from gateway.core.errors import NotValid
from gateway.core.tensors import Datatype, Tensor
from gateway.history import ask
from gateway.ports.archive import Filter, QuestionLimits
from gateway.settings import Settings
from tests.integration.log.test_archive import rows

ALL = Filter(limit=1_000_000)
LIMITS = QuestionLimits(rows_max=100, bytes_max=2**20, memory_bytes=Settings().control.question_memory_bytes, timeout_s=120.0)


def floats(name: str, *shape: int) -> Tensor:
    """Return a tensor that does not compress."""
    return Tensor(name, Datatype.FP32, np.random.default_rng(5).random(shape, np.float32))


def test_segment_of_wide_records_is_archived_asked_and_exported(house, prediction):
    """A full segment of requests of 240 kB, of one row or of many, is one like any other at the default memory."""
    assert Settings().archive.memory_bytes == 512 * 2**20
    flat, table = floats("flat", 1, 60_000), floats("x", 20_000, 3)
    logged = [prediction(number, inputs=(table if number % 50 == 0 else flat,)) for number in range(200)]
    house.write(*logged)
    assert house.reader.end("w0") > 61 * 2**20
    assert house.take() == 200
    house.write(*(prediction(number, inputs=(flat,)) for number in range(200, 220)), stream="w1")

    found = list(house.archive.query(Filter(limit=1_000)))
    assert [body["prediction_id"] for body in found] == [record.prediction_id for record in reversed(logged)]
    _, timed = house.archive.in_order(ALL, decode=decode)
    assert [record.prediction_id for *_, record in timed] == [record.prediction_id for record in logged]
    to = house.directory / "export.parquet"
    assert house.archive.export(ALL, to) == 200
    assert rows(to, "count(*), count(record), count(in_x_2)", "ALL") == [(196 + 4 * 20_000, 200, 4 * 20_000)]
    answer = ask("SELECT count(*), count(record) FROM predictions", within=LIMITS, archive=house.archive, log=house.reader)
    assert answer.rows == ((196 + 4 * 20_000 + 20, 220),)


def test_largest_record_is_archived_to_the_bit(house, prediction):
    """A request of 60 MB is in the archive as it was logged, and so is what came after it."""
    largest = prediction(1, inputs=(floats("x", 15_000_000, 1),), outputs=(floats("y", 1),))
    house.write(largest)
    house.write(prediction(2))
    assert house.take() == 2
    _, body = house.archive.query(ALL)
    body.pop("ground_truth")
    assert body == json.loads(encode([largest]))
    assert house.archive.export(ALL, house.directory / "export.parquet") == 2


def test_take_that_is_stopped_leaves_the_archive_as_it_was(house, prediction):
    """A stop is heard between two parts of a segment, nothing of which is listed; the next take has all of it once."""
    house.write(*(prediction(number, inputs=(floats("x", 1, 60_000),)) for number in range(80)))
    house.store.repair()
    (segment,) = house.store.closed("w0")
    calls = itertools.count()
    assert house.archive.take(segment, is_stopped=lambda: next(calls) > 0).predictions == 0
    assert house.archive.taken("w0") == 0
    assert list(house.archive.query(ALL)) == []
    assert house.take() == 80
    assert len(list(house.archive.query(ALL))) == 80


def test_raw_integers_and_booleans_are_spelled_out_to_the_bit(house, prediction):
    """Every kind of element that is logged raw has its own value in its column, where a double could not hold it too."""
    large = np.arange(2**62, 2**62 + 200, dtype=np.int64)
    house.write(prediction(1, inputs=(Tensor("n", Datatype.INT64, large), Tensor("b", Datatype.BOOL, large % 3 == 0))))
    assert house.take() == 1
    found = rows(house.directory / "archive/route=delay/*/*.parquet", "in_n, in_b")
    assert found == [(int(value), bool(value % 3 == 0)) for value in large]


def test_prediction_of_countless_empty_rows_has_one(house, prediction):
    """A tensor of a billion rows without an element, which weighs nothing, does not become a billion rows."""
    house.write(prediction(1, inputs=(Tensor("x", Datatype.FP32, np.empty((10**9, 0), np.float32)),)))
    assert house.take() == 1
    assert rows(house.directory / "archive/route=delay/*/*.parquet", "rows, row", "row") == [(10**9, 0)]


def test_question_that_may_not_be_asked_is_refused_before_the_log_is_read(house):
    """Whoever asks what is never answered causes no work."""
    with pytest.raises(NotValid, match="one statement that selects"):
        house.archive.ask("COPY predictions TO 'x'", within=LIMITS, tail=lambda _: pytest.fail("the log was read"))
