"""Who may do what: roles are sets of scopes, a token carries scopes, an operation asks for one."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from gateway.core.errors import NotPermitted
from gateway.core.fields import Fields, Json


class Scope(enum.Enum):
    """What an operation asks of a token."""

    READ = "read"  # look at models, routes, evidence, audit
    PREDICTIONS = "predictions"  # read logged inputs and outputs
    REGISTER = "register"  # upload and retire versions
    REGISTER_PICKLED = "register_pickled"  # beside `register`: upload pickles, which are programs
    OPERATE = "operate"  # change routes, rollouts, automation, quarantine
    APPROVE = "approve"  # promote on a route that asks for approval
    PREDICT = "predict"  # ask for predictions, where `serving.prediction_tokens` looks at tokens
    GROUND_TRUTH = "ground_truth"  # post outcomes
    ADMIN = "admin"  # create and revoke keys; implies every other


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a key may ask of the prediction paths; 0 is without limit.

    Attributes:
        burst: Requests that may come at once; 0 for a second's worth.
    """

    requests_per_s: float = 0.0
    burst: int = 0
    rows_per_day: int = 0


UNLIMITED: Final = Limits()


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
    limits: Limits = UNLIMITED


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
CONTROL: Final = Principal("control", frozenset({Scope.ADMIN}))  # what the control plane does for itself at start
ADMIN_KEY_NAME: Final = "admin.token"  # of the first key, and of the file in the data directory that holds its token
OWN_NAMES: Final = frozenset({MONITOR.name, CONTROL.name, ADMIN_KEY_NAME})  # in the audit log they mean the gateway itself


def key_body(key: Key) -> Json:
    """Return a key as it may be shown: everything but the token's digest."""
    limits = key.limits
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "created_at_s": key.created_at_s,
        "limits": {"requests_per_s": limits.requests_per_s, "burst": limits.burst, "rows_per_day": limits.rows_per_day},
    }


def limits_from_body(body: object, where: str) -> Limits:
    """Read a key's limits; what is not said is without limit.

    Raises:
        MalformedRequest: a field is unknown or out of range, or there is a burst without a rate.
    """
    if body is None:
        return UNLIMITED
    fields = Fields(body, where)
    limits = Limits(
        requests_per_s=fields.number("requests_per_s", 0.0, 1e9, 0.0),
        burst=fields.integer("burst", 0, 1 << 31, 0),
        rows_per_day=fields.integer("rows_per_day", 0, 1 << 53, 0),
    )
    fields.done()
    if limits.burst and not limits.requests_per_s:
        raise fields.wrong("burst", "a rate, requests_per_s, beside it")
    return limits


def token_digest(token: str) -> str:
    """Return what is stored and looked up for a token."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
