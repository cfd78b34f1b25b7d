"""Which of a rollout's two versions a record speaks of, and whether it may be compared. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.core.evidence import Side
from gateway.core.guardrails import own_attempt
from gateway.core.records import Kind, Outcome, PredictionRecord
from gateway.core.rollouts import CHALLENGER, PREVIOUS, Rollout, RolloutState

SIDES: Final[Mapping[str, Side]] = {side.value: side for side in Side}


def is_compared(record: PredictionRecord) -> bool:
    """Return whether either variant could have run the request.

    While one rests, the other's answers say nothing either: they would count for it without a counterpart. That is known before
    the split chooses, so leaving them out favours nobody.
    """
    return not record.resting or not any(variant in SIDES for variant in record.resting)


def is_own(record: PredictionRecord) -> bool:
    """Return whether the assigned variant itself answered a request that either variant could have run."""
    own = own_attempt(record)
    return own is not None and own.outcome is Outcome.OK and record.variant == record.assigned and is_compared(record)


def side_beside(rollout: Rollout, record: PredictionRecord) -> Side | None:
    """Return whose answer, or copy, a record holds while one version answers and the other sees copies.

    None when it says nothing of the two.
    """
    match rollout.state:
        case RolloutState.SHADOW:
            answers, copied, name = (Side.CHAMPION, rollout.champion), (Side.CHALLENGER, rollout.challenger), CHALLENGER
        case RolloutState.LIVE:
            answers, copied, name = (Side.CHALLENGER, rollout.challenger), (Side.CHAMPION, rollout.champion), PREVIOUS
        case _:
            return None
    if record.revision < rollout.since_revision:
        return None
    if record.kind is Kind.SHADOW and (record.variant, record.version) == (name, copied[1]):
        return copied[0]
    own = own_attempt(record)
    return answers[0] if own is not None and own.version == answers[1] else None
