"""The laws of the split."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.split import SLOTS, assign_slots, hashed_key, slot_of

NAMES = ["a", "b", "c", "d", "e"]


@st.composite
def weights(draw):
    """Draw names with integer weights that sum to all slots; some may be zero."""
    names = draw(st.permutations(NAMES).flatmap(lambda names: st.integers(1, 5).map(lambda count: names[:count])))
    cuts = sorted(draw(st.lists(st.integers(0, SLOTS), min_size=len(names) - 1, max_size=len(names) - 1)))
    edges = [0, *cuts, SLOTS]
    return [(name, edges[at + 1] - edges[at]) for at, name in enumerate(names)]


@settings(max_examples=60, deadline=None)
@given(before=weights(), after=weights())
def test_split_moves_as_few_slots_as_the_weights_ask(before, after):
    """A change moves exactly ½Σ|Δw| slots, only from variants that shrink to variants that grow."""
    old = assign_slots(before)
    new = assign_slots(after, old)
    was, now = dict(before), dict(after)
    change = {name: now.get(name, 0) - was.get(name, 0) for name in {*was, *now}}
    moved = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
    assert len(moved) == sum(abs(by) for by in change.values()) // 2
    assert all(change[one] < 0 < change[other] for one, other in moved)


@settings(max_examples=60, deadline=None)
@given(history=st.lists(weights(), min_size=1, max_size=4))
def test_split_gives_each_variant_its_weight_whatever_came_before(history):
    """After any history the owners are exactly the last weights."""
    owners = None
    for one in history:
        owners = assign_slots(one, owners)
    assert len(owners) == SLOTS
    assert Counter(owners) == {name: weight for name, weight in history[-1] if weight}


@given(weights())
def test_split_of_the_same_weights_moves_nothing(one):
    """Committing a route again keeps every caller where it is."""
    owners = assign_slots(one)
    assert assign_slots(list(reversed(one)), owners) == owners


@given(salt=st.text(max_size=100), key=st.text())
def test_split_is_sticky_and_takes_any_text(salt, key):
    """The same key and salt give the same slot, inside the range; keys may be any text."""
    assert slot_of(salt, key) == slot_of(salt, key)
    assert 0 <= slot_of(salt, key) < SLOTS


def test_split_takes_half_a_surrogate_pair():
    """A key that no encoding takes still has a slot."""
    assert slot_of("s", "\ud800") != slot_of("s", "\udfff")
    assert len(hashed_key("\ud800")) == 16


def test_split_is_uniform_over_its_slots():
    """Keys that look alike spread evenly: χ² over 100 cells of 100 slots stays within six standard deviations."""
    counts = Counter(slot_of("salt", f"N{at:05d}") // 100 for at in range(50_000))
    chi_squared = sum((counts[cell] - 500) ** 2 / 500 for cell in range(100))
    assert abs(chi_squared - 99) < 6 * (2 * 99) ** 0.5


def test_split_with_another_salt_is_independent():
    """A new salt deals the keys anew, so that yesterday's unlucky callers are not today's."""
    owners = assign_slots([("champion", 9_000), ("challenger", 1_000)])
    first = {at for at in range(20_000) if owners[slot_of("one", str(at))] == "challenger"}
    second = {at for at in range(20_000) if owners[slot_of("two", str(at))] == "challenger"}
    assert abs(len(first) - 2_000) < 6 * 42.4  # binomial: σ = √(20,000 · 0.1 · 0.9)
    assert abs(len(first & second) - 200) < 6 * 14.1  # independent: 1 % in both


def test_split_does_not_say_the_key():
    """A record's key is a hash: the same for every route, and not the slot's."""
    assert hashed_key("N12345") == hashed_key("N12345")
    assert "N12345" not in hashed_key("N12345")
    assert len({hashed_key(str(at)) for at in range(10_000)}) == 10_000
