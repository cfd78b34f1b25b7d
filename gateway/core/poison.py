"""Which inputs end the process that runs them, so that a caller who repeats one does not end a process each time.

A process that dies says nothing of its inputs, and noting every request's would cost them all. So a worker's first death only has
the versions that ran watched: from then on their runs note their inputs' fingerprints. What ran at the next death is suspect. A
suspect runs by itself: if its process lives it is cleared, so that what merely ran when somebody killed a worker is not held
against it; if the process dies again it is convicted, and refused. Everything is forgotten after a while.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json

SUSPICIONS_MAX: Final = 1_000  # the newest are kept; 150 bytes each


class Standing(enum.Enum):
    """What is held against an input, or a whole version."""

    WATCHED = "watched"  # a version, whose inputs are noted
    SUSPECT = "suspect"  # an input, which runs by itself
    REFUSED = "refused"  # an input, which is not run


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is remembered of one version and input.

    Attributes:
        digest: The version's.
        fingerprint: The input's, hexadecimal; empty for a version that is watched.
        until_s: When it is forgotten, in seconds since the epoch.
    """

    digest: str
    fingerprint: str
    standing: Standing
    until_s: float


DeadRun = tuple[str, Sequence[str]]  # a version's digest, and the fingerprints of the inputs in one run if they were noted
Suspicions = tuple[Suspicion, ...]  # the oldest first; one of each version and input


def after_death(known: Suspicions, runs: Sequence[DeadRun], *, now_s: float, keep_s: float) -> Suspicions:
    """Return what is remembered after a process died during runs: of those the suspects are to blame, or all of them suspect."""
    suspects = {(one.digest, one.fingerprint) for one in known if one.until_s > now_s}
    ran = [(digest, fingerprint) for digest, fingerprints in runs for fingerprint in fingerprints]
    blamed = [pair for pair in ran if pair in suspects]
    found = {(digest, ""): Standing.WATCHED for digest, _ in runs}
    found |= dict.fromkeys(ran, Standing.SUSPECT) if not blamed else dict.fromkeys(blamed, Standing.REFUSED)
    kept = [one for one in known if one.until_s > now_s and (one.digest, one.fingerprint) not in found]
    new = [Suspicion(digest, fingerprint, standing, now_s + keep_s) for (digest, fingerprint), standing in found.items()]
    return tuple([*kept, *new][-SUSPICIONS_MAX:])


def after_survival(known: Suspicions, digest: str, fingerprints: Iterable[str]) -> Suspicions:
    """Return what is remembered after suspects ran by themselves and their process lives."""
    cleared = {(digest, fingerprint) for fingerprint in fingerprints}
    return tuple(one for one in known if one.standing is not Standing.SUSPECT or (one.digest, one.fingerprint) not in cleared)


def suspicions_body(known: Suspicions) -> list[Json]:
    """Return what is remembered as its store keeps it."""
    return [
        {"digest": one.digest, "fingerprint": one.fingerprint, "standing": one.standing.value, "until_s": one.until_s}
        for one in known
    ]


def suspicions_from_body(body: object) -> Suspicions:
    """Read what `suspicions_body` wrote.

    Raises:
        MalformedRequest: it is of another form.
    """
    if not isinstance(body, list):
        raise MalformedRequest("suspicions: expected an array")
    readers = [Fields(item, "suspicion") for item in body[-SUSPICIONS_MAX:]]
    return tuple(
        Suspicion(one.text("digest"), one.text("fingerprint"), one.choice("standing", Standing), one.number("until_s", 0.0, 1e12))
        for one in readers
    )
