"""Who is blamed when a process dies, and what all workers remember of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapters.suspicions_file import SuspicionsFile
from gateway.core.poison import (
    SUSPICIONS_MAX,
    Standing,
    Suspicions,
    after_death,
    after_survival,
    suspicions_body,
    suspicions_from_body,
)
from gateway.core.tensors import Datatype, Tensor
from gateway.serving.poison import fingerprints_of

V, W = "aa" * 32, "bb" * 32
A, B, C = "01" * 16, "02" * 16, "03" * 16


def died(known: Suspicions, *runs: tuple[str, list[str]], now_s: float = 0.0) -> Suspicions:
    """Return what is remembered, for a minute."""
    return after_death(known, runs, now_s=now_s, keep_s=60.0)


def standings(known: Suspicions) -> dict[tuple[str, str], Standing]:
    """Return (digest, fingerprint) → standing."""
    return {(one.digest, one.fingerprint): one.standing for one in known}


def test_three_deaths_of_a_worker_convict_an_input():
    """The first has the version watched, the second makes a suspect of what ran, the third convicts it."""
    known = died((), (V, []))
    assert standings(known) == {(V, ""): Standing.WATCHED}
    known = died(known, (V, [A]))
    assert standings(known) == {(V, ""): Standing.WATCHED, (V, A): Standing.SUSPECT}
    known = died(known, (V, [A]))
    assert standings(known) == {(V, ""): Standing.WATCHED, (V, A): Standing.REFUSED}
    assert standings(died(known, (V, [A, B])))[V, A] is Standing.REFUSED


def test_suspect_is_to_blame_and_not_what_runs_beside_it():
    """Which of many it was the next death shows, of whatever else ran then."""
    known = died(died((), (V, [])), (V, [A, B]), (W, [C]))
    assert [standings(known)[pair] for pair in ((V, A), (V, B), (W, C))] == [Standing.SUSPECT] * 3
    again = standings(died(known, (V, [A]), (V, ["04" * 16])))
    assert (again[V, A], again[V, B], (V, "04" * 16) in again) == (Standing.REFUSED, Standing.SUSPECT, False)


def test_input_that_ran_while_workers_were_killed_from_outside_is_never_convicted():
    """Each death suspects it, and each run by itself clears it."""
    known: Suspicions = ()
    for _ in range(10):
        known = after_survival(died(known, (V, [A])), V, [A])
    assert standings(known) == {(V, ""): Standing.WATCHED}


def test_survival_clears_suspects_alone():
    """What was convicted stays so, and so does what others are suspected of."""
    known = died(died(died((), (V, [A])), (V, [A])), (V, [B, C]))
    cleared = standings(after_survival(known, V, [A, B]))
    assert cleared == {(V, ""): Standing.WATCHED, (V, A): Standing.REFUSED, (V, C): Standing.SUSPECT}
    assert after_survival(known, W, [B]) == known


def test_everything_is_forgotten_after_a_while():
    """A death long ago says nothing of the next one."""
    known = died(died((), (V, [A])), (V, [A]))
    assert standings(died(known, (W, []), now_s=61.0)) == {(W, ""): Standing.WATCHED}


def test_memory_is_bounded_and_read_back():
    """The newest are kept, whatever callers send, and come back as they were written."""
    known: Suspicions = ()
    for number in range(40):
        known = died(known, (V, [f"{number:02x}{at:02x}" * 8 for at in range(64)]))
    assert len(known) == SUSPICIONS_MAX
    assert standings(known)[V, "273f" * 8] is Standing.SUSPECT
    assert suspicions_from_body(json.loads(json.dumps(suspicions_body(known)))) == known


def test_file_is_shared_and_survives_damage(tmp_path: Path):
    """What one process writes another learns once; a file that nobody understands remembers nothing and is replaced."""
    one, other = SuspicionsFile(tmp_path / "run" / "poison.json"), SuspicionsFile(tmp_path / "run" / "poison.json")
    assert other.news() == ()
    assert other.news() is None
    one.change(lambda known: died(known, (V, [])))
    other.change(lambda known: died(known, (V, [A])))
    assert standings(one.news() or ()) == {(V, ""): Standing.WATCHED, (V, A): Standing.SUSPECT}
    assert one.news() is None
    for damage in (b"[{", b"{}", b'[{"digest": 7}]', b"\xff"):
        (tmp_path / "run" / "poison.json").unlink()
        (tmp_path / "run" / "poison.json").write_bytes(damage)
        assert one.news() == ()
    one.change(lambda known: died(known, (W, [])))
    assert standings(other.news() or ()) == {(W, ""): Standing.WATCHED}


@pytest.mark.parametrize("kind", [np.float32, np.object_])
def test_key_is_of_a_row_whatever_stands_beside_it(kind):
    """The same row has the same fingerprint in every request; another value, name or type has another."""
    rows = np.array([[1, 2], [3, 4]], kind)
    datatype = Datatype.FP32 if kind is np.float32 else Datatype.BYTES
    both = fingerprints_of([Tensor("x", datatype, rows)], 2, is_batched=True)
    assert fingerprints_of([Tensor("x", datatype, rows[1:])], 1, is_batched=True) == both[1:]
    assert len({*both, *fingerprints_of([Tensor("y", datatype, rows)], 2, is_batched=True)}) == 4
    assert len(fingerprints_of([Tensor("x", datatype, rows)], 2, is_batched=False)) == 1
    many = np.tile(rows, (40, 1))
    assert len(fingerprints_of([Tensor("x", datatype, many)], len(many), is_batched=True)) == 1
