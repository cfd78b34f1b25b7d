"""The table of what the monitor finds: every row runs, verdicts follow from figures and their intervals, edits are edits."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adapters.stores.rows import entry_text
from gateway.core.audit import AuditEntry
from loadtests.detection.__main__ import main, run
from loadtests.detection.audited import EDITS
from loadtests.detection.flapping import most_within
from loadtests.detection.lines import (
    Asked,
    Line,
    Row,
    Size,
    Verdict,
    count_limits,
    delay_line,
    interval,
    judged,
    median_limits,
    upper_limit,
)
from loadtests.detection.rows import ROWS

GATEWAYS = {3, 12}  # rows that start one and load it
LONG = {1, 2, 4, 5}  # rows of rollouts, which are tested by themselves, and one that is another's with other rows
EXACT = {13, 14}  # of which nothing is chance


def test_table_has_all_rows_in_order():
    """Fourteen targets, fourteen rows."""
    assert list(ROWS) == list(range(1, 15))


@pytest.mark.parametrize("number", sorted(set(ROWS) - GATEWAYS - LONG))
def test_quick_row_runs_and_decides_only_what_is_not_chance(number, capsys):
    """Each row prints its lines beside a dummy; a handful of runs neither meets nor misses a target of chance."""
    assert main(["--quick", "--rows", f"{number}"]) == 0
    printed = capsys.readouterr().out
    assert f"\n{number}. {ROWS[number].title}\n   Dummy: " in printed
    assert f"{'Met' if number in EXACT else 'Too few runs to tell'}: {number}." in printed


def test_rows_that_do_not_exist_are_refused(capsys):
    """A wrong number is named."""
    with pytest.raises(SystemExit):
        main(["--rows", "1,15"])
    assert "'1,15'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "line", "verdict"),
    [
        (Size.USUAL, Line("", "", "", verdict=Verdict.MISSED), Verdict.MISSED),
        (Size.QUICK, Line("", "", "", verdict=Verdict.MISSED), Verdict.OPEN),
        (Size.QUICK, Line("", "", "", verdict=Verdict.MISSED, is_exact=True), Verdict.MISSED),
        (Size.USUAL, Line("", "", "", verdict=Verdict.OPEN), Verdict.OPEN),
        (Size.USUAL, Line("", "", ""), Verdict.MET),
    ],
)
def test_row_is_as_good_as_its_worst_line(size, line, verdict):
    """One line that misses its target makes the row miss it, except where a handful of runs cannot say so."""
    met = Line("", "", "", verdict=Verdict.MET, is_exact=True)
    with ThreadPoolExecutor(1) as pool:
        assert run(Row(1, "", "", lambda _: iter([met, line, met])), Asked(size, 1, pool)) is verdict


def test_limits_are_the_published_ones():
    """Clopper and Pearson's and Garwood's intervals, as tables have them."""
    assert interval(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert interval(1, 10) == pytest.approx((0.0025, 0.4450), abs=1e-4)
    assert interval(10, 10) == pytest.approx((0.6915, 1.0), abs=1e-4)
    assert upper_limit(0, 149) == pytest.approx(0.0199, abs=1e-4)
    assert count_limits(0) == pytest.approx((0.0, 3.689), abs=1e-3)
    assert count_limits(1) == pytest.approx((0.0253, 5.572), abs=1e-3)


def test_limits_of_a_median_hold_it_as_often_as_they_say():
    """In 2,000 samples of 50 they miss the true median in 5 %, and a point more for the steps of ranks."""
    rng = np.random.default_rng(1)
    limits = [median_limits(rng.normal(size=50).tolist()) for _ in range(2_000)]
    assert 0.93 <= sum(low <= 0.0 <= high for low, high in limits) / 2_000 <= 0.98


@pytest.mark.parametrize(
    ("found", "verdict"),
    [([10.0] * 99 + [math.inf], Verdict.MET), ([10.0] * 98 + [math.inf] * 2, Verdict.MISSED), ([11.0] * 100, Verdict.MISSED)],
)
def test_delays_miss_their_target_by_their_median_or_by_what_was_never_found(found, verdict):
    """A fast median does not make up for harm that was missed in more than one of a hundred runs."""
    assert delay_line("", found, 10.0, "").verdict is verdict


def test_target_that_is_kept_without_certainty_is_not_met():
    """Too few runs are no success, and a figure that misses is a miss however few they are."""
    assert [judged(True), judged(True, is_sure=False), judged(False, is_sure=False)] == [
        Verdict.MET,
        Verdict.OPEN,
        Verdict.MISSED,
    ]


def test_increases_are_counted_in_every_span():
    """Two moments exactly a span apart are not in one."""
    assert [most_within(times) for times in ([], [0.0], [0.0, 900.0], [0.0, 899.0], [0.0, 800.0, 950.0, 1_600.0])] == [
        0,
        1,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("name", EDITS)
def test_edit_edits(name):
    """Whatever the seed, the table is another than before, so that an edit that is not found is one that was missed."""
    entries = (AuditEntry(at, 1.0, "ada", "route.put", "route:r", "why", f"d{at}", hash=f"{at}") for at in range(1, 9))
    rows = [(entry.seq, entry.hash, entry_text(entry)) for entry in entries]
    for seed in range(20):
        assert EDITS[name](rows, np.random.default_rng(seed)) != rows
