"""Ground truth waits until it is known alike for both variants, in the order in which it came, and not for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.cohorts import COHORT_S, HELD_MAX, WAIT_FACTOR, Cohorts, Known
from gateway.core.evidence import Side


def _known(number: int, side: Side = Side.CHAMPION) -> Known:
    return Known(side, f"k-{number}", 0.0, 0.5)


def _answered(count: int) -> Cohorts:
    cohorts = Cohorts()
    for number in range(count):
        cohorts.expect(Side.CHALLENGER if number % 2 else Side.CHAMPION, 0.0)
    return cohorts


def _popped(cohorts: Cohorts, now_s: float) -> list[Known]:
    return list(iter(lambda: cohorts.pop(now_s), None))


def test_even_ground_truth_passes_at_once():
    """Where both variants' answers become known alike nothing waits."""
    cohorts = _answered(200)
    for number in range(200):
        known = _known(number, Side.CHALLENGER if number % 2 else Side.CHAMPION)
        cohorts.know(known, answered_s=0.0, now_s=5.0)
        assert _popped(cohorts, 5.0) == [known]


def test_one_sided_ground_truth_waits_for_the_other_side():
    """While only the champion's answers are known they wait; once the challenger's are too, all pass as they came."""
    cohorts = _answered(200)
    champion = [_known(number) for number in range(100)]
    for known in champion:
        cohorts.know(known, answered_s=0.0, now_s=5.0)
    passed = _popped(cohorts, 5.0)
    assert len(passed) < 20
    challenger = [_known(number, Side.CHALLENGER) for number in range(100, 200)]
    for known in challenger:
        cohorts.know(known, answered_s=0.0, now_s=6.0)

    assert passed + _popped(cohorts, 6.0) == champion + challenger


def test_ground_truth_waits_no_longer_than_a_multiple_of_its_own_delay():
    """A side that never becomes known does not stop the other for ever."""
    cohorts = _answered(200)
    for number in range(100):
        cohorts.know(_known(number), answered_s=0.0, now_s=5.0)
    latest_s = 5.0 + WAIT_FACTOR * 5.0 + COHORT_S
    passed = len(_popped(cohorts, latest_s - 0.1))

    assert passed < 20
    assert len(_popped(cohorts, latest_s)) == 100 - passed


def test_what_waits_is_bounded():
    """Beyond the bound the oldest passes, so that memory does not grow with a side that stays unknown."""
    cohorts = _answered(2 * HELD_MAX)
    passed = 0
    for number in range(HELD_MAX):
        cohorts.know(_known(number), answered_s=0.0, now_s=5.0)
        passed += len(_popped(cohorts, 5.0))
    cohorts.know(_known(HELD_MAX), answered_s=0.0, now_s=5.0)
    for number in range(HELD_MAX, HELD_MAX + 50):
        cohorts.know(_known(number), answered_s=0.0, now_s=5.0)
        passed += len(_popped(cohorts, 5.0))

    assert cohorts.held <= HELD_MAX
    assert passed > 0


@given(st.lists(st.tuples(st.sampled_from(Side), st.floats(0.0, 300.0)), max_size=80), st.integers(0, 80))
def test_cohorts_keep_the_order_and_are_restored_exactly(arrivals, cut):
    """Whatever comes, what passes is a beginning of what came; going on from the state passes the same."""
    whole, other = Cohorts(), Cohorts()
    for cohorts in (whole, other):
        for side, answered_s in arrivals:
            cohorts.expect(side, answered_s)
    passed, passed_again, came = [], [], []
    for number, (side, answered_s) in enumerate(arrivals):
        if number == cut:
            other = Cohorts.restored(other.state())
        came.append(_known(number, side))
        now_s = 300.0 + number
        for cohorts, taken in ((whole, passed), (other, passed_again)):
            cohorts.know(came[-1], answered_s=answered_s, now_s=now_s)
            taken.extend(_popped(cohorts, now_s))

    assert passed == came[: len(passed)]
    assert passed_again == passed
    assert other.state() == whole.state()
