"""A change of the registry: what it writes, who makes it and why. A person's change and the monitor's have the same type, so
both go through `RegistryStore.commit` and neither can skip the audit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

from gateway.core.access import Key
from gateway.core.fields import Fields, Json
from gateway.core.models import Version
from gateway.core.rollouts import Rollout
from gateway.core.routes import Revision, Route

DecisionId = NewType("DecisionId", str)
_BEFORE_ANY = Revision(0)
COLD_MAX = 20  # of a worker's report: a person looks at the first few


@dataclass(frozen=True, slots=True)
class PutVersion:
    """Add a version, or set its state; anything else of an existing version is immutable (`VersionExists`)."""

    version: Version


@dataclass(frozen=True, slots=True)
class PutChampion:
    """Point the alias `champion` of a model at a version."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class PutHold:
    """Have every worker keep a version warm, whether a route needs it or not."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class DropHold:
    """Have every worker let a version go that no route needs, whether it was held or is warm because somebody called it."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class PutRoute:
    """Create or replace a route; the registry sets its revision."""

    route: Route


@dataclass(frozen=True, slots=True)
class DropRoute:
    """Remove a route."""

    name: str


@dataclass(frozen=True, slots=True)
class PutRollout:
    """Create or replace a rollout."""

    rollout: Rollout


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A digest that no rollout may use until `until_s`, or until a person releases it.

    Attributes:
        strikes: How often this digest was rolled back; kept after release.
        until_s: Seconds since the epoch; 0 once released.
    """

    digest: str
    model: str
    version: str
    strikes: int
    until_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class PutKey:
    """Add a key."""

    key: Key


@dataclass(frozen=True, slots=True)
class DropKey:
    """Revoke a key."""

    id: str


@dataclass(frozen=True, slots=True)
class Automation:
    """The switch that stops all automatic changes."""

    is_on: bool = True


Write = (
    PutVersion | PutChampion | PutHold | DropHold | PutRoute | DropRoute | PutRollout | Quarantine | PutKey | DropKey | Automation
)


@dataclass(frozen=True, slots=True)
class Change:
    """Writes that happen together with one audit entry, or not at all.

    Attributes:
        principal: The name of who acts.
        action: A verb from a closed set, e.g. `route.put`, `rollout.rollback`.
        subject: What it acts on, e.g. `route:delays`.
        route: The route whose revision `expected_revision` is compared with; empty when none is touched.
        evidence: What the decision rests on; empty for a person's change.
    """

    principal: str
    action: str
    subject: str
    reason: str
    writes: tuple[Write, ...]
    route: str = ""
    evidence: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did.

    Attributes:
        revision: The route's revision now; 0 when no route was touched.
        table_revision: The route table's revision now.
        audit_seq: The audit entry's number.
        is_repeat: Whether this decision id was committed before; nothing was written again.
    """

    revision: Revision
    table_revision: Revision
    audit_seq: int
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """A coming change that workers prepare for: each loads and warms `needs`, then acknowledges.

    Attributes:
        needs: (model, version) pairs.
    """

    id: int
    needs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Cold:
    """A version that a worker should keep warm and could not load, and why."""

    model: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How far a serving worker has followed the registry.

    Attributes:
        revision: Of the route table it answers with.
        prepared: The last proposal it prepared for.
        failure: Why the last proposal could not be prepared, else empty.
        settled: Revision of the last table of which everything that is kept was loaded, or is `cold`.
        cold: At most `COLD_MAX`.
    """

    worker: str
    revision: Revision
    prepared: int
    failure: str
    seen_at_s: float
    settled: Revision = _BEFORE_ANY
    cold: tuple[Cold, ...] = ()


def quarantine_body(quarantine: Quarantine) -> Json:
    """Return a quarantine as the admin API shows it and the registry stores it."""
    return {
        "digest": quarantine.digest,
        "model": quarantine.model,
        "version": quarantine.version,
        "strikes": quarantine.strikes,
        "until_s": quarantine.until_s,
        "reason": quarantine.reason,
    }


def quarantine_from_body(body: object) -> Quarantine:
    """Read what `quarantine_body` wrote."""
    fields = Fields(body, "quarantine")
    return Quarantine(
        digest=fields.text("digest"),
        model=fields.text("model"),
        version=fields.text("version"),
        strikes=fields.integer("strikes", 0, 1 << 62),
        until_s=fields.number("until_s", 0.0, 1e12),
        reason=fields.text("reason"),
    )
