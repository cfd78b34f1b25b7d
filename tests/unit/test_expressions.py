"""One's own measures: what an expression means, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import MalformedRequest
from gateway.core.expressions import DEPTH_MAX, EXPRESSION_LENGTH_MAX, Value, compiled

VALUES: dict[str, Value] = {
    "answer": 12.0, "error": 0.0, "latency_ms": 80.0, "loss": 0.25, "rows": 1.0, "truth": 30.0,
    "feature.carrier": "AA", "feature.dep_delay": -5.0, "feature.dep delay": 7.0, "feature.missing": float("nan"),
}  # fmt: skip


def value(source: str) -> float | None:
    return compiled(source, "here").value(VALUES.get)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("8 - 4 - 2", 2.0),
        ("8 / 4 / 2", 1.0),
        ("-2 * -3", 6.0),
        ("1e3 + .5", 1000.5),
        ("abs(answer - truth) > 15", 1.0),
        ("abs(answer - truth) > 18", 0.0),
        ('feature.carrier == "AA" and latency_ms > 50', 1.0),
        ('feature.carrier != "AA" or latency_ms > 50 and error', 0.0),
        ("not error", 1.0),
        ("not error == 1", 1.0),
        ("max(0, feature.dep_delay) + min(3, 2, 9)", 2.0),
        ('feature."dep delay" * loss', 1.75),
        ("(latency_ms > 50) * loss", 0.25),
    ],
)
def test_expression_means_what_arithmetic_says(source: str, expected: float) -> None:
    """Signs, comparisons, words and functions bind as people read them."""
    assert value(source) == pytest.approx(expected)


@pytest.mark.parametrize(
    "source",
    ["feature.missing + 1", "feature.other > 0", "1 / (rows - 1)", "feature.carrier + 1", "feature.carrier",
     "feature.missing == feature.missing", "1e300 * 1e300", "not feature.other", "abs(feature.carrier)",
     "error and feature.other"],
)  # fmt: skip
def test_expression_without_a_value_says_nothing(source: str) -> None:
    """A missing value, a division by zero, an overflow or text where a number is needed makes it say nothing."""
    assert value(source) is None


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("", "ends too early"),
        ("1 +", "ends too early"),
        ("(1", "not closed"),
        ("1 2", "'2' is not expected"),
        ("1 < 2 < 3", "'<' is not expected"),
        ("answr > 1", "unknown name 'answr'"),
        ("__import__", "unknown name"),
        ("answer.real", "unknown name"),
        ("feature", "unknown name"),
        ("abs(1, 2)", "one value"),
        ("max(1)", "two values"),
        ("abs", "is a function"),
        ("open(1)", "unknown name 'open'"),
        ("[1]", "cannot read"),
        ("lambda: 1", "cannot read"),
        ("1 ** 2", "'*' is not expected"),
        ("'AA'", "cannot read"),
        ("and", "'and' is not expected"),
        ("(" * (DEPTH_MAX + 1) + "1" + ")" * (DEPTH_MAX + 1), "deep"),
        ("-" * (DEPTH_MAX + 1) + "1", "deep"),
        ('"AA" + 1', "text stands where a number is needed"),
        ('feature.carrier < "B"', "text stands where a number is needed"),
        ('"a" < rows', "text stands where a number is needed"),
        ('-"a" == answer', "text stands where a number is needed"),
        ('abs("x")', "text stands where a number is needed"),
        ('error and ("x")', "text stands where a number is needed"),
        ('rows == "a"', "compares text with a number"),
        ('(rows + 1) != "a"', "compares text with a number"),
        ("1e999*rows", "1e999 is too large"),
        ("answer / (2 - 2)", "divides by zero"),
        ("1" * (EXPRESSION_LENGTH_MAX + 1), "at most"),
    ],
)
def test_expression_that_is_none_is_refused(source: str, named: str) -> None:
    """The message names the place and what is wrong there."""
    with pytest.raises(MalformedRequest, match="here: ") as refused:
        compiled(source, "here")
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("source", "low", "high"),
    [
        ("0 * rows", 0.0, 0.0),
        ("rows - rows", 0.0, 0.0),
        ("answer / answer", 1.0, 1.0),
        ("(rows + 1) / (rows + 1)", 1.0, 1.0),
        ("feature.x == feature.x", 1.0, 1.0),
        ("feature.x < feature.x", 0.0, 0.0),
        ("error > 2", 0.0, 0.0),
        ("loss >= 0", 1.0, 1.0),
        ("not (latency_ms < 0)", 1.0, 1.0),
        ("error and rows < 0", 0.0, 0.0),
        ("answer or 1", 1.0, 1.0),
        ("abs(-2) * max(3, 1 + 2)", 6.0, 6.0),
        ("answer - rows - answer", -math.inf, math.inf),
        ("rows - error - rows - error", -math.inf, math.inf),
        ("2 * loss - 1", -1.0, 1.0),
        ("max(loss, .5) / 2", 0.25, 0.5),
        ("abs(loss - .75)", 0.0, 0.75),
        ("-rows", -math.inf, 0.0),
        ("1 / (error + 1)", 0.5, 1.0),
        ("answer == 3", 0.0, 1.0),
        ("not error", 0.0, 1.0),
        ("1e300 * 1e300 - rows * 1e300 * 1e300", -math.inf, math.inf),
    ],
)
def test_expression_knows_what_it_may_come_to(source: str, low: float, high: float) -> None:
    """What is the same whatever comes is known beforehand, and so are the ends of what is not."""
    may_be = compiled(source, "here").range
    assert (may_be.low, may_be.high) == (low, high)


@given(
    source=st.recursive(
        st.sampled_from(["rows", "loss", "error", "answer", "0", "1", ".5", "3"]),
        lambda part: st.one_of(
            st.tuples(part, st.sampled_from(["+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!=", "and", "or"]), part).map(
                lambda three: f"({' '.join(three)})"
            ),
            part.map(lambda one: f"abs({one})"),
            part.map(lambda one: f"(not {one})"),
            st.tuples(part, part).map(lambda two: f"min({two[0]}, max({two[1]}, {two[0]}))"),
        ),
        max_leaves=8,
    ),
    rows=st.sampled_from([0.0, 1.0, 7.0]),
    loss=st.floats(0.0, 1.0),
    error=st.sampled_from([0.0, 1.0]),
    answer=st.floats(-1e6, 1e6),
)
def test_expression_never_leaves_what_it_may_come_to(source: str, rows: float, loss: float, error: float, answer: float) -> None:
    """Whatever a record holds, the value lies in the range that was known before."""
    try:
        expression = compiled(source, "here")
    except MalformedRequest:
        return  # divides by zero, or is too deep
    values: dict[str, Value] = {"rows": rows, "loss": loss, "error": error, "answer": answer}
    found = expression.value(values.get)
    assert found is None or expression.range.low <= found <= expression.range.high


def test_expression_knows_the_kinds_of_features_where_they_are_told() -> None:
    """Text that a column of numbers never holds is refused where the column is known."""
    compiled('feature.delay == "AA"', "here")
    with pytest.raises(MalformedRequest, match="compares text with a number"):
        compiled('feature.delay == "AA"', "here", kinds={"feature.delay": float})
    with pytest.raises(MalformedRequest, match="text stands where a number"):
        compiled("feature.carrier + 1", "here", kinds={"feature.carrier": str})


def test_expression_knows_what_it_needs() -> None:
    """Only one that names the truth or the loss waits for it."""
    assert compiled("loss > 0", "here").is_late
    assert not compiled("latency_ms > feature.dep_delay", "here").is_late
    assert compiled("latency_ms > feature.dep_delay", "here").names == {"latency_ms", "feature.dep_delay"}


@given(source=st.text(alphabet='ab9. +-*/()<>=!",\tandornotfeature', max_size=60))
def test_any_text_is_read_or_refused(source: str) -> None:
    """Whatever the text, it is an expression with a finite value or none, or it is refused and nothing else."""
    try:
        found = compiled(source, "here").value(VALUES.get)
    except MalformedRequest:
        return
    assert found is None or abs(found) < float("inf")


def test_longest_expression_is_evaluated() -> None:
    """The bound on length keeps evaluation from ever running out of stack."""
    assert value("+".join(["1"] * 250)) == 250.0
