"""How the registry's values stand in its rows: JSON bodies, and the owners of a route's slots as runs.

A row that cannot be read is the store's fault, never a caller's: it raises `StoreFailed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, groupby, repeat
from typing import Any

import orjson

from gateway.core.access import Key, Scope, key_body, limits_from_body
from gateway.core.audit import AuditEntry, entry_body, entry_from_body
from gateway.core.changes import Cold, Quarantine, WorkerStatus, quarantine_from_body
from gateway.core.errors import MalformedRequest, StoreFailed
from gateway.core.fields import Fields
from gateway.core.models import Version
from gateway.core.rollouts import Rollout, rollout_from_body
from gateway.core.routes import Revision, Route, stored_route
from gateway.core.split import Owners
from gateway.core.version_bodies import version_from_body


def text_of(body: object) -> str:
    """Return a body as compact JSON."""
    return json.dumps(body, separators=(",", ":"))


def owners_text(owners: Owners) -> str:
    """Return owners as runs: `[["champion", 9000], ["challenger", 1000]]`; 40 bytes instead of 100,000 for a new route."""
    return text_of([[name, len(list(run))] for name, run in groupby(owners)])


@lru_cache(maxsize=1_000)  # most routes own their slots alike, and 10,000 of them take 80 kB
def owners_of(text: str) -> Owners:
    """Read what `owners_text` wrote."""
    return tuple(chain.from_iterable(repeat(name, count) for name, count in json.loads(text)))


def version_of(text: str) -> Version:
    """Read a version; most of it is its profile, 50 kB, of which every start reads a thousand."""
    with _readable("version"):
        return version_from_body(_quickly_read(text))


def _quickly_read(text: str) -> object:
    """Return a body, read in a seventh of the time; what JSON proper does not hold, and `json` wrote all the same, as ever."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def route_of(text: str, owners: str) -> Route:
    """Read a route."""
    with _readable("route"):
        return stored_route(json.loads(text), owners_of(owners))


def rollout_of(text: str) -> Rollout:
    """Read a rollout."""
    with _readable("rollout"):
        return rollout_from_body(json.loads(text))


def quarantine_of(text: str) -> Quarantine:
    """Read a quarantine."""
    with _readable("quarantine"):
        return quarantine_from_body(json.loads(text))


def key_text(key: Key) -> str:
    """Return a key without its token's digest, which has a column of its own."""
    return text_of(key_body(key))


def key_of(text: str, token_sha256: str) -> Key:
    """Read a key."""
    with _readable("key"):
        fields = Fields(json.loads(text), "key")
        return Key(
            id=fields.text("id"),
            name=fields.text("name"),
            token_sha256=token_sha256,
            scopes=frozenset(Scope(scope) for scope in fields.items("scopes", len(Scope))),
            created_at_s=fields.number("created_at_s", 0.0, 1e12),
            limits=limits_from_body(fields.value("limits"), "key.limits"),
        )


def entry_text(entry: AuditEntry) -> str:
    """Return an audit entry without its hash, which has a column of its own."""
    return text_of(entry_body(entry))


def entry_of(text: str, hash: str) -> AuditEntry:
    """Read an audit entry; whether it was tampered with is for `first_broken` to say, as long as it can be read at all."""
    with _readable("audit entry"):
        return entry_from_body(json.loads(text), hash)


def needs_of(text: str) -> tuple[tuple[str, str], ...]:
    """Read what a proposal needs."""
    with _readable("proposal"):
        return tuple((str(model), str(version)) for model, version in json.loads(text))


def worker_of(row: Sequence[Any]) -> WorkerStatus:
    """Read a worker's report: worker, revision, prepared, failure, seen_at_s, settled, cold."""
    worker, revision, prepared, failure, seen_at_s, settled, cold = row
    with _readable("worker's report"):
        found = tuple(Cold(*map(str, one)) for one in json.loads(cold))
    return WorkerStatus(worker, Revision(revision), prepared, failure, seen_at_s, Revision(settled), found)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (MalformedRequest, ValueError, TypeError, RecursionError) as error:
        raise StoreFailed(
            f"a {what} in the registry cannot be read: {error}", hint="restore a backup with `headgate restore`"
        ) from error
