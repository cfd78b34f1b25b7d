"""The audit log: entries chained by hash, so that an edit, a removal or a reordering is found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

from gateway.core.fields import Fields, Json
from gateway.core.records import Anchor

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
    canonical = json.dumps(entry_body(entry), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(canonical.encode()).hexdigest()


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


def chained(entry: AuditEntry) -> AuditEntry:
    """Return the entry with its hash, and its bodies as they will be read back.

    Keys become text, tuples arrays; NaN and infinities, which JSON cannot hold, become the texts `nan`, `inf`, `-inf`; half a
    surrogate pair, which no file takes, becomes a question mark.
    """
    plain = replace(
        entry,
        principal=_encodable(entry.principal),
        action=_encodable(entry.action),
        subject=_encodable(entry.subject),
        reason=_encodable(entry.reason),
        before=plain_object(entry.before),
        after=plain_object(entry.after),
        evidence=plain_object(entry.evidence),
    )
    return replace(plain, hash=entry_hash(plain))


def entry_from_body(body: object, hash: str) -> AuditEntry:
    """Read what `entry_body` wrote; whether the hash fits is for `first_broken` to say.

    Raises:
        MalformedRequest: it is not the body of an entry.
    """
    fields = Fields(body, "audit")
    return AuditEntry(
        seq=fields.integer("seq", 1, 1 << 62),
        time_s=fields.number("time_s", 0.0, 1e12),
        principal=fields.text("principal"),
        action=fields.text("action"),
        subject=fields.text("subject"),
        reason=fields.text("reason", length_max=1 << 20),
        decision_id=fields.text("decision_id"),
        before=fields.mapping("before"),
        after=fields.mapping("after"),
        evidence=fields.mapping("evidence"),
        previous=fields.text("previous"),
        hash=hash,
    )


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


def lost_anchors(anchors: Iterable[Anchor], hashes: Mapping[int, str]) -> list[Anchor]:
    """Return the anchors whose entry is not in the chain, or not with that hash: the chain was shortened or written anew.

    Args:
        hashes: Of the chain's entries by number, of the anchored ones at least.
    """
    return [anchor for anchor in anchors if hashes.get(anchor.seq) != anchor.hash]


def plain_object(body: Mapping[str, object]) -> Json:
    """Return an object as an entry keeps it; see `chained`."""
    return {_encodable(str(name)): _plain(value) for name, value in body.items()}


def _plain(value: object) -> object:
    match value:
        case str():
            return _encodable(value)
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return plain_object(value)
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return value


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
