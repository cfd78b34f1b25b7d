"""The audit log: entries chained by hash, so that an edit, a removal or a reordering is found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from gateway.core.fields import Json

FIRST_HASH: Final = "0" * 64  # what the first entry follows


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change, by a person or by the gateway.

    Attributes:
        seq: 1, 2, 3…, without gaps.
        time_s: Seconds since the epoch.
        before, after: The bodies of what the change replaced and wrote.
        previous: The hash of the entry before.
        hash: Of everything above, see `entry_hash`.
    """

    seq: int
    time_s: float
    principal: str
    action: str
    subject: str
    reason: str
    decision_id: str
    before: Json = field(default_factory=dict)
    after: Json = field(default_factory=dict)
    evidence: Json = field(default_factory=dict)
    previous: str = FIRST_HASH
    hash: str = ""


def entry_hash(entry: AuditEntry) -> str:
    """Return the sha256 of an entry's canonical JSON (sorted keys, no blanks), its own hash left out."""
    return sha256(json.dumps(entry_body(entry), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def entry_body(entry: AuditEntry) -> Json:
    """Return what is hashed: every field but `hash`."""
    return {
        "seq": entry.seq,
        "time_s": entry.time_s,
        "principal": entry.principal,
        "action": entry.action,
        "subject": entry.subject,
        "reason": entry.reason,
        "decision_id": entry.decision_id,
        "before": entry.before,
        "after": entry.after,
        "evidence": entry.evidence,
        "previous": entry.previous,
    }


def first_broken(entries: Iterable[AuditEntry], *, previous: str = FIRST_HASH, seq: int = 0) -> int | None:
    """Return the number of the first entry that does not follow from the one before it, or None.

    Args:
        entries: In order, starting after the entry `seq`, whose hash is `previous`.
    """
    for entry in entries:
        seq += 1
        if entry.seq != seq or entry.previous != previous or entry_hash(entry) != entry.hash:
            return seq
        previous = entry.hash
    return None
