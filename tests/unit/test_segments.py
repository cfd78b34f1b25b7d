"""The names of numeric segments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.evidence.segments import segment_name


@pytest.mark.parametrize(
    ("number", "name"),
    [(7.0, "7"), (-0.0, "0"), (1_234_567.0, "1234567"), (0.1, "0.1"), (float(np.float32(0.1)), "0.1"), (1e300, "1e+300")],
)
def test_segment_of_a_number_is_named_as_people_write_it(number: float, name: str) -> None:
    """A whole number has no point, and a fraction is the same from FP32 as from a plan."""
    assert segment_name(number) == name


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_segment_name_reads_back_as_its_number(number: float) -> None:
    """No two numbers of a column share a name: it is the number, in FP64 or as the same number of FP32."""
    name = segment_name(number)
    with np.errstate(over="ignore"):
        assert number in (float(name), float(np.float32(name)))
