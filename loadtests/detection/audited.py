"""The audit log: is every automatic decision found again in the prediction log, and is every edit of it found?

Edits are made in the registry's own table by somebody who may write to it, and looked for by what `audit verify` goes by: the
chain of hashes and its anchors in the prediction log. Beside it stands the chain alone.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gateway.compose.directory import DataDirectory
from gateway.compose.past import opened_past
from gateway.core.audit import FIRST_HASH, chained, entry_from_body, first_broken, lost_anchors
from gateway.core.errors import StoreFailed
from gateway.core.records import Anchor
from gateway.history import anchors
from gateway.replay.decisions import Finding, recompute_decisions
from gateway.replay.past import Past
from loadtests.detection.life import Fault, live
from loadtests.detection.lines import Asked, Line, judged

Rows = list[tuple[int, str, str]]  # of the table: number, hash, body
FAULTS = (Fault(1_200.0, 60.0, errors=0.3), Fault(900.0, 200.0, losses=0.5), Fault(2_400.0, 1_200.0, errors=0.03))


def _changed(rows: Rows, random: np.random.Generator) -> Rows:
    """Change one field of one entry."""
    at = int(random.integers(len(rows)))
    return [*rows[:at], (*rows[at][:2], _altered(rows[at][2], random)), *rows[at + 1 :]]


def _altered(body: str, random: np.random.Generator) -> str:
    fields = json.loads(body)
    name = str(random.choice(["time_s", "principal", "reason", "decision_id", "after", "evidence"]))
    fields[name] = {**fields[name], "x": 1} if isinstance(fields[name], dict) else fields[name] + (1 if name == "time_s" else "x")
    return json.dumps(fields)


def _removed(rows: Rows, random: np.random.Generator) -> Rows:
    """Remove one entry that is not the last."""
    at = int(random.integers(len(rows) - 1))
    return [*rows[:at], *rows[at + 1 :]]


def _swapped(rows: Rows, random: np.random.Generator) -> Rows:
    """Exchange two neighbours, whose numbers stay where they were."""
    at = int(random.integers(len(rows) - 1))
    one, other = rows[at], rows[at + 1]
    return [*rows[:at], (one[0], *other[1:]), (other[0], *one[1:]), *rows[at + 2 :]]


def _shortened(rows: Rows, random: np.random.Generator) -> Rows:
    """Cut off the end."""
    return rows[: int(random.integers(1, len(rows)))]


def _rewritten(rows: Rows, random: np.random.Generator) -> Rows:
    """Change one entry and compute every hash from there on anew."""
    at, previous = int(random.integers(len(rows))), FIRST_HASH
    written: Rows = []
    for number, (seq, hash, body) in enumerate(rows):
        text = _altered(body, random) if number == at else body
        fields = {**json.loads(text), "previous": previous}
        previous = chained(entry_from_body(fields, hash)).hash
        written.append((seq, previous, json.dumps(fields)))
    return written


EDITS: dict[str, Callable[[Rows, np.random.Generator], Rows]] = {
    "one field changed": _changed,
    "one entry removed": _removed,
    "two entries exchanged": _swapped,
    "the end cut off": _shortened,
    "an entry changed, all hashes anew": _rewritten,
}


def audited(fault: Fault, hours: float, edits: int, seed: int) -> tuple[Counter[str], Counter[str], dict[str, tuple[int, int]]]:
    """Live some hours, then recompute and edit.

    Returns:
        What became of the decisions when they were recomputed; the same after a number in each one's evidence was changed; of
        each kind of edit, how many were found, and how many by the chain alone.
    """
    random = np.random.default_rng([seed, int(fault.period_s)])
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        live(root, fault, hours, seed)
        with opened_past(root) as past, contextlib.closing(sqlite3.connect(DataDirectory(root).registry)) as table:
            rows: Rows = list(table.execute("SELECT seq, hash, body FROM audit ORDER BY seq"))
            anchored = anchors(archive=past.archive, log=past.log)  # the log is not edited, and takes a while to read
            assert _is_found(past, anchored) == (False, False), "an audit log that nobody edited is whole"
            sound = Counter(one.finding.value for one in recompute_decisions(past))
            _write(table, [(seq, hash, _misstated(body)) for seq, hash, body in rows])
            misstated = Counter(one.finding.value for one in recompute_decisions(past))
            found = {}
            for name, edit in EDITS.items():
                told = []
                for _ in range(edits):
                    _write(table, edit(rows, random))
                    told.append(_is_found(past, anchored))
                found[name] = (sum(one for one, _ in told), sum(other for _, other in told))
    return sound, misstated, found


def _misstated(body: str) -> str:
    """Return an entry that says of its evidence that one more key was seen."""
    fields = json.loads(body)
    if "challenger_keys" in fields["evidence"]:
        fields["evidence"]["challenger_keys"] += 1
    return json.dumps(fields)


def _write(table: sqlite3.Connection, rows: Rows) -> None:
    with table:
        table.execute("DELETE FROM audit")
        table.executemany("INSERT INTO audit VALUES (?, ?, ?)", rows)


def _is_found(past: Past, anchored: Sequence[Anchor]) -> tuple[bool, bool]:
    """Return whether chain and anchors together find that the log was edited, and whether the chain alone does."""
    try:
        entries = past.registry.audit(0, 100_000)
    except StoreFailed:
        return True, True
    is_broken = first_broken(entries) is not None
    return is_broken or bool(lost_anchors(anchored, {entry.seq: entry.hash for entry in entries})), is_broken


def audit_lines(asked: Asked) -> Iterator[Line]:
    """Yield how many decisions are found again, and how many edits are found."""
    hours, edits, faults = asked.of(0.1, 2.0, 12.0), asked.of(3, 50, 200), asked.of(FAULTS[:1], FAULTS, FAULTS)
    each = [[one] * len(faults) for one in (hours, edits, asked.seed)]
    lives = list(asked.pool.map(audited, faults, *each))
    sound, misstated = (sum(column, Counter()) for column in list(zip(*lives, strict=True))[:2])
    same, count = sound[Finding.SAME.value], sound.total()
    found, dummy = f"{same} of {count}", f"misstated: {misstated[Finding.SAME.value]} of {misstated.total()}"
    kept = judged(same == count and misstated[Finding.SAME.value] == 0, is_sure=count > 0)
    yield Line("automatic decisions recomputed the same", "all", found, dummy, kept, is_exact=True)
    for name in EDITS:
        hits, chain = (sum(column) for column in zip(*(edited[name] for _, _, edited in lives), strict=True))
        count = edits * len(faults)
        yield Line(f"{name}: found", "all", f"{hits} of {count}", f"{chain} of {count}", judged(hits == count), is_exact=True)
