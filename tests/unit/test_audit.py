"""The chain of audit entries."""

from __future__ import annotations

import json
from dataclasses import fields, replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.core.audit import FIRST_HASH, AuditEntry, chained, entry_body, entry_from_body, entry_hash, first_broken

TEXT = st.text(max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=3,
)
BODIES = st.dictionaries(TEXT, VALUES, max_size=2)
ENTRIES = st.builds(
    AuditEntry,
    seq=st.just(0),
    time_s=st.floats(0, 1e12),
    principal=TEXT,
    action=TEXT,
    subject=TEXT,
    reason=TEXT,
    decision_id=TEXT,
    before=BODIES,
    after=BODIES,
    evidence=BODIES,
)


def chain(entries: list[AuditEntry]) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    for at, entry in enumerate(entries, start=1):
        found.append(chained(replace(entry, seq=at, previous=found[-1].hash if found else FIRST_HASH)))
    return found


CHAINS = st.lists(ENTRIES, min_size=1, max_size=4).map(chain)


@settings(max_examples=40, deadline=None)
@given(CHAINS)
def test_audit_chain_that_nobody_touched_is_whole(entries):
    """Entries follow from each other, also in pieces, and after they were stored as JSON."""
    stored = [entry_from_body(json.loads(json.dumps(entry_body(entry))), entry.hash) for entry in entries]
    assert stored == entries
    assert first_broken(stored) is None
    for cut in range(1, len(stored)):
        assert first_broken(stored[cut:], previous=stored[cut - 1].hash, seq=cut) is None


@settings(max_examples=40, deadline=None)
@given(CHAINS, ENTRIES, st.data())
def test_audit_chain_detects_any_edit(entries, other, data):
    """Another value in any field of any entry is found at that entry, or at the next one when its hash was made to fit."""
    at = data.draw(st.integers(0, len(entries) - 1))
    name = data.draw(st.sampled_from([one.name for one in fields(AuditEntry)]))
    value = {"seq": at + 7, "hash": "1" * 64, "previous": "2" * 64}.get(name, getattr(other, name))
    edited = replace(entries[at], **{name: value})
    assume(chained(edited) != chained(entries[at]))
    assert first_broken([*entries[:at], edited, *entries[at + 1 :]]) == at + 1
    fitted = [*entries[:at], replace(edited, hash=entry_hash(edited)), *entries[at + 1 :]]
    if at + 1 < len(entries):
        assert first_broken(fitted) in (at + 1, at + 2)


@settings(max_examples=40, deadline=None)
@given(CHAINS, st.data())
def test_audit_chain_detects_removal_and_reordering(entries, data):
    """An entry that is gone, doubled or moved breaks the chain; only the end can be cut without a trace in the chain itself."""
    assume(len(entries) > 1)
    at = data.draw(st.integers(0, len(entries) - 2))
    assert first_broken([*entries[:at], *entries[at + 1 :]]) == at + 1
    assert first_broken([*entries[: at + 1], *entries[at:]]) == at + 2
    assert first_broken([*entries[:at], entries[at + 1], entries[at], *entries[at + 2 :]]) == at + 1


@settings(max_examples=40, deadline=None)
@given(ENTRIES)
def test_audit_entry_is_stable_json(entry):
    """What an entry holds after it is chained is what JSON gives back, so that its hash can be recomputed by anyone."""
    first = chained(replace(entry, seq=1))
    assert chained(first) == first
    assert json.loads(json.dumps(entry_body(first), allow_nan=False)) == entry_body(first)
    assert entry_hash(first) == first.hash


def test_audit_of_nothing_is_whole():
    """An empty log has no broken entry."""
    assert first_broken([]) is None
