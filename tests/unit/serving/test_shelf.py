"""The shelf: what is kept stays, the rest goes by last use within the budget."""

from __future__ import annotations

from adapters.memory import MemoryBank
from gateway.serving.shelf import Shelf

A, B, C, D = (("m", name) for name in "abcd")


def test_what_was_not_used_for_longest_goes_first():
    """A use counts like a load; the version that came last is not the one that goes."""
    shelf = Shelf(bytes_max=30, metrics=MemoryBank())
    for key in (A, B, C):
        shelf.put(key, object(), 10)
    shelf.use(A)
    shelf.put(D, object(), 10)
    assert set(shelf) == {A, C, D}
    shelf.put(B, object(), 10)
    assert set(shelf) == {A, B, D}


def test_what_is_kept_is_never_evicted():
    """Kept versions stay although they are over the budget, and a version that just came stays to answer."""
    shelf = Shelf(bytes_max=15, metrics=MemoryBank())
    shelf.keep({A, B})
    for key in (A, B, C, D):
        shelf.put(key, object(), 10)
    assert set(shelf) == {A, B, D}
    shelf.keep({D})
    shelf.put(C, object(), 5)
    assert set(shelf) == {C, D}


def test_room_is_made_before_a_load_and_only_if_it_helps():
    """What is not kept gives way to a coming version, unless even all of it would not be enough."""
    shelf = Shelf(bytes_max=30, metrics=MemoryBank())
    shelf.keep({A})
    for key in (A, B, C):
        shelf.put(key, object(), 10)
    assert not shelf.make_room(21)
    assert set(shelf) == {A, B, C}
    assert shelf.make_room(20)
    assert set(shelf) == {A}


def test_version_whose_processes_grow_makes_others_give_way():
    """What a version holds outside of the worker counts as it is now, which is no use of it and evicts others, not itself."""
    metrics = MemoryBank()
    shelf = Shelf(bytes_max=30, metrics=metrics)
    for key in (A, B, C):
        shelf.put(key, object(), 4, 4)
    shelf.weigh(B, 14)
    assert set(shelf) == {B, C}
    shelf.weigh(B, 4)
    shelf.weigh(D, 50)  # it went meanwhile
    assert {sample.value for sample in metrics.samples() if sample.name == "gateway_warm_bytes"} == {16}
    shelf.put(A, object(), 20)
    assert set(shelf) == {C, A}


def test_memory_is_shown_by_version_and_together():
    """Each version's bytes are a gauge, zero once it went; their sum is another."""
    metrics = MemoryBank()
    shelf = Shelf(bytes_max=100, metrics=metrics)
    seen: list[tuple[str, str]] = []
    shelf.changed = seen.append
    shelf.put(A, object(), 40)
    shelf.put(B, object(), 50)
    shelf.drop(A)
    found = {(sample.name, dict(sample.labels).get("version")): sample.value for sample in metrics.samples()}
    assert found["gateway_model_memory_bytes", "a"] == 0
    assert found["gateway_model_memory_bytes", "b"] == 50
    assert (found["gateway_warm_bytes", None], found["gateway_warm_versions", None]) == (50, 1)
    assert seen == [A, B, A]
    assert shelf.has_dropped.is_set()
