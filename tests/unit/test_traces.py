"""What a `traceparent` says, and which traces are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.traces import TraceContext, context_of, is_kept, traceparent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "is_sampled"),
    [(f"00-{TRACE}-{SPAN}-01", True), (f"00-{TRACE}-{SPAN}-00", False), (f"cc-{TRACE}-{SPAN}-03-what-comes-later", True)],
)
def test_traceparent_is_read(header, is_sampled):
    """Trace, span and the flag of this version, and of a later one as the standard asks."""
    assert context_of(header.encode()) == TraceContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{'g' * 32}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_what_is_no_traceparent_is_none(header):
    """Zeros, other lengths, other digits, the forbidden version, and version 0 with more than it has."""
    assert context_of(header.encode()) is None


@given(st.binary(max_size=80))
def test_any_header_is_read_or_none(header):
    """No bytes fail, and what is read is written so that it is read again."""
    context = context_of(header)
    assert context is None or context_of(traceparent_of(context)) == context


def test_share_of_traces_is_kept():
    """A share of random traces is kept, the same ones each time; all of them at 1, none at 0."""
    ids = [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}" for number in range(1, 4_001)]
    assert sum(is_kept(id, 0.25) for id in ids) == pytest.approx(1_000, abs=120)
    assert all(is_kept(id, 1.0) for id in ids)
    assert not any(is_kept(id, 0.0) for id in ids)
    assert all(is_kept(id, 0.5) for id in ids if is_kept(id, 0.25))
