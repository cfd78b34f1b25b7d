"""Which variant answers a request: a salted hash of the assignment key picks one of 10,000 slots, and each slot has an owner.

Changing weights moves exactly ½Σ|Δw| slots, only from variants that shrink to variants that grow, so no other caller changes
variant. Pure; the only place that hashes an assignment key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

SLOTS: Final = 10_000
Owners = tuple[str, ...]  # the owner of each slot, by variant name; length SLOTS
_KNOWN_MAX: Final = 16_384  # keys remembered; about 5 MB with…
_KNOWN_LENGTH_MAX: Final = 64  # …characters at most; longer keys are hashed each time


def slot_of(salt: str, key: str) -> int:
    """Return the slot of a key, uniform over [0, SLOTS).

    The hash is 64 bits wide: the remainder's bias is below 1e-15.
    """
    return _known_slot(salt, key) if len(key) <= _KNOWN_LENGTH_MAX else slot_of_id(salt, key)


def hashed_key(key: str) -> str:
    """Return what stands in a record instead of the assignment key: 16 hexadecimal digits, the same for every route and salt."""
    return _known_hash(key) if len(key) <= _KNOWN_LENGTH_MAX else hashed_id(key)


def slot_of_id(salt: str, id: str) -> int:
    """Return the same as `slot_of`, remembering nothing: for what never comes back, like a prediction id."""
    digest = blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big") % SLOTS


def hashed_id(id: str) -> str:
    """Return the same as `hashed_key`, remembering nothing."""
    return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


# Callers come back: a remembered key costs 0.1 µs instead of 1, a new one up to 1 µs more than without.
_known_slot = lru_cache(_KNOWN_MAX)(slot_of_id)
_known_hash = lru_cache(_KNOWN_MAX)(hashed_id)


def assign_slots(weights: Sequence[tuple[str, int]], before: Owners | None = None) -> Owners:
    """Return the owners for new weights, moving as few slots of `before` as possible.

    Args:
        weights: Variant names with integer weights that sum to `SLOTS`.
        before: The owners until now; None for a new route.

    Returns:
        `SLOTS` names. Slots move in ascending order, from shrinking variants to growing ones in the order of `weights`.
    """
    missing = dict(weights)
    assert sum(missing.values()) == SLOTS, "weights sum to SLOTS"
    if before is None:
        return tuple(name for name, weight in weights for _ in range(weight))
    owners: list[str | None] = [_keep(owner, missing) for owner in before]
    heirs = iter([name for name, weight in missing.items() for _ in range(weight)])
    return tuple(next(heirs) if owner is None else owner for owner in owners)


def _keep(owner: str, missing: dict[str, int]) -> str | None:
    if missing.get(owner, 0) == 0:
        return None
    missing[owner] -= 1
    return owner
