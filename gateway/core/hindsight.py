"""Would going back help? What the version before, kept in the shadow of its successor, answers to the same requests.

A promoted version that gets worse by its own past tells only that something moved. The version before meets the same requests in
the same world: where it does better, the version is to blame and going back helps; where it does no better, the world is. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.evidence import EvidenceKind, EvidencePlan
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Finding, Guardrail, Verdict

ERRORS: Final = "errors"  # as the outcomes of a version are called that its own past is watched for
LOSS: Final = "loss"
RAILS: Final[Mapping[str, Guardrail]] = {
    name: replace(rail, name=f"{name} on the same requests")
    for name, rail in zip((ERRORS, LOSS), DEFAULT_GUARDRAILS, strict=True)
}


class Help(enum.Enum):
    """Whether going back would help."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "not known yet"


@dataclass(frozen=True, slots=True)
class Worsening:
    """A promoted version is worse than it was at first, in errors or in loss, and since when the shadow is asked.

    Attributes:
        outcome: One of `ERRORS` and `LOSS`.
    """

    outcome: str
    why: str


def paired_plan(name: str, alpha: float, epoch_s: float) -> EvidencePlan:
    """Return how the pairs of an outcome are gathered."""
    return replace(RAILS[name].evidence_plan(alpha, epoch_s), kind=EvidenceKind.PAIRED)


def would_help(findings: Sequence[Finding], outcome: str = "") -> Help:
    """Return whether going back would help: in one outcome, or in both where none is named."""
    asked = [one for one in findings if not outcome or one.guardrail == RAILS[outcome]]
    if any(one.verdict is Verdict.FAIL for one in findings):
        return Help.YES
    return Help.NO if asked and all(one.verdict is Verdict.PASS for one in asked) else Help.UNKNOWN
