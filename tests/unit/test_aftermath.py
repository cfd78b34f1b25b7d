"""Whether a rollback helped, by what the champion does alone."""

from __future__ import annotations

import json

import pytest

from gateway.core.aftermath import KEYS, SPAN_S, Aftermath, Blame, Look, has_not_helped
from gateway.core.guardrails import Measure

ERRORS = Blame("service errors", Measure.ERRORS, 0.05, 0.4)
RARE = Blame("service errors", Measure.ERRORS, 0.001, 0.01)


@pytest.mark.parametrize(
    ("blame", "mean", "keys", "expected"),
    [
        (ERRORS, 0.06, 500, True),
        (ERRORS, 0.2, 500, True),  # worse than it was, and still far from the challenger
        (ERRORS, 0.38, 500, False),
        (ERRORS, 0.9, 500, False),
        (ERRORS, 0.4, 99, None),
        (RARE, 0.004, 500, True),  # two of five hundred are chance
        (RARE, 0.02, 500, False),
    ],
)
def test_rollback_helped_where_the_champion_stays_nearer_to_itself(blame, mean, keys, expected):
    """As bad as the challenger is no help, better than half-way is, and few keys or few errors say nothing against it."""
    assert Look(blame, mean, keys).has_helped is expected


def test_rollback_that_helped_in_one_measure_helped():
    """Every measure that tells must say no, and one must tell."""
    good, bad, unknown = Look(ERRORS, 0.05, 500), Look(ERRORS, 0.4, 500), Look(ERRORS, 0.4, 10)
    assert has_not_helped([bad, unknown])
    assert not has_not_helped([bad, good])
    assert not has_not_helped([unknown])
    assert not has_not_helped([])


def test_window_is_bounded_by_keys_and_by_time():
    """A key counts once, the window closes when it is full or a day is over, and a restored one goes on exactly."""
    window = Aftermath((ERRORS,), revision=7, since_s=100.0)
    for at in range(KEYS - 1):
        window.observe(Measure.ERRORS, f"k{at}", 1.0)
    for _ in range(1_000):
        window.observe(Measure.ERRORS, "k0", 0.0)
        window.observe(Measure.LOSS, "other", 1.0)
    assert not window.is_over(200.0)
    assert window.is_over(100.0 + SPAN_S)
    again = Aftermath.restored(json.loads(json.dumps(window.state())))
    again.observe(Measure.ERRORS, "last", 0.0)
    assert again.is_over(200.0)
    [look] = again.looks()
    assert (look.mean, look.keys) == ((KEYS - 1) / KEYS, KEYS)
    again.is_judged = True
    assert not again.is_over(200.0)
