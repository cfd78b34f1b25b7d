"""Who may do what: roles are sets of scopes, a token carries scopes, an operation asks for one."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from gateway.core.errors import NotPermitted
from gateway.core.fields import Json


class Scope(enum.Enum):
    """What an operation asks of a token."""

    READ = "read"  # look at models, routes, evidence, audit
    PREDICTIONS = "predictions"  # read logged inputs and outputs
    REGISTER = "register"  # upload and retire versions
    REGISTER_PICKLED = "register_pickled"  # beside `register`: upload pickles, which are programs
    OPERATE = "operate"  # change routes, rollouts, automation, quarantine
    GROUND_TRUTH = "ground_truth"  # post outcomes
    ADMIN = "admin"  # create and revoke keys; implies every other


@dataclass(frozen=True, slots=True)
class Key:
    """A bearer token as stored: never the token, only its digest.

    Attributes:
        token_sha256: Hexadecimal. Tokens hold 256 random bits, so that a plain digest is safe.
    """

    id: str
    name: str
    token_sha256: str
    scopes: frozenset[Scope]
    created_at_s: float


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts: a key's holder, or a part of the gateway."""

    name: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raise `NotPermitted` unless the principal has `scope`."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise NotPermitted(f"this needs the scope {scope.value!r}")


MONITOR: Final = Principal("monitor", frozenset({Scope.OPERATE}))


def key_body(key: Key) -> Json:
    """Return a key as it may be shown: everything but the token's digest."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "created_at_s": key.created_at_s,
    }


def token_digest(token: str) -> str:
    """Return what is stored and looked up for a token."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
