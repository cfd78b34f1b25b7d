"""One number a row of what has no columns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.core.errors import MalformedRequest
from gateway.core.summaries import Statistic, Summary, signs, summaries_from_body, summarised, summary_body
from gateway.core.tensors import Datatype, Tensor


def of(statistic: Statistic, array: np.ndarray, direction: int = 0) -> list[float]:
    datatype = Datatype.BYTES if array.dtype.kind == "O" else Datatype.FP32
    found = summarised([Summary("x", statistic, direction)], [Tensor("x", datatype, array)])
    assert found is not None
    return found[0].tolist()


def test_summaries_of_numbers_are_of_whole_rows_whatever_their_shape() -> None:
    """A row of any shape is one vector; what is not finite has no number."""
    rows = np.asarray([[[3.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[math.nan, 1.0], [1.0, 1.0]]], np.float32)
    assert of(Statistic.NORM, rows) == pytest.approx([5.0, 2.0, math.nan], nan_ok=True)
    assert of(Statistic.MEAN, rows)[:2] == [1.75, 1.0]
    assert of(Statistic.VARIANCE, rows)[:2] == pytest.approx([np.var([3, 0, 4, 0]), 0.0])
    assert of(Statistic.SPARSITY, rows)[:2] == [0.5, 0.0]
    assert of(Statistic.LENGTH, rows) == pytest.approx([math.nan] * 3, nan_ok=True)


def test_projections_are_onto_fixed_directions_that_differ() -> None:
    """Each direction is ±1, about half of each, uncorrelated with the others; its projection has the embedding's scale."""
    directions = np.stack([signs(4_096, number) for number in range(4)])
    assert set(directions.ravel().tolist()) == {-1.0, 1.0}
    assert np.abs(directions.mean(axis=1)).max() < 0.06
    assert np.abs(np.corrcoef(directions) - np.eye(4)).max() < 0.06
    assert signs(5, 7).tolist() == signs(9, 7)[:5].tolist()
    embeddings = np.random.default_rng(1).normal(size=(500, 4_096)).astype(np.float32)
    assert np.std(of(Statistic.PROJECTION, embeddings, 3)) == pytest.approx(1.0, abs=0.1)


def test_summaries_of_texts_count_characters() -> None:
    """Length, and the shares of characters that are not ASCII and that are blank; an empty text has no shares."""
    texts = np.empty((4, 1), np.object_)
    texts[:, 0] = ["grüße dich".encode(), b"plain", b"", b"\xff"]
    assert of(Statistic.LENGTH, texts) == [10.0, 5.0, 0.0, 1.0]
    assert of(Statistic.NON_ASCII, texts) == pytest.approx([0.2, 0.0, math.nan, 1.0], nan_ok=True)
    assert of(Statistic.BLANK, texts) == pytest.approx([0.1, 0.0, math.nan, 0.0], nan_ok=True)
    assert of(Statistic.NORM, texts) == pytest.approx([math.nan] * 4, nan_ok=True)


def test_summaries_need_their_tensors_with_equal_rows() -> None:
    """A missing tensor, or two that differ in rows, give nothing."""
    tensors = [Tensor(name, Datatype.FP32, np.ones((rows, 3), np.float32)) for name, rows in (("a", 2), ("b", 2), ("c", 1))]
    made = {name: Summary(name, Statistic.MEAN) for name in "abcd"}
    assert summarised([made["a"], made["b"]], tensors) is not None
    assert summarised([made["a"], made["c"]], tensors) is None
    assert summarised([made["d"]], tensors) is None


def test_summaries_are_read_back_and_refused_by_name() -> None:
    """What is written is read; a direction without a projection, an unknown statistic and repeats are refused."""
    made = (Summary("image", Statistic.NORM), Summary("image", Statistic.PROJECTION, 3))
    assert summaries_from_body([summary_body(one) for one in made], "s") == made
    assert [one.name for one in made] == ["norm of image", "projection 3 of image"]
    for body, said in (
        ([{"tensor": "image", "statistic": "norm", "direction": 1}], "only a projection"),
        ([{"tensor": "image", "statistic": "median"}], "one of norm"),
        ([{"tensor": "image", "statistic": "norm"}] * 2, "are the same"),
    ):
        with pytest.raises(MalformedRequest, match=said):
            summaries_from_body(body, "s")
