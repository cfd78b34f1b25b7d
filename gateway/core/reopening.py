"""What ground truth that comes after a rollout's end changes in its verdict.

A version that was promoted and is convicted by what its rollout's answers turn out to be is rolled back, as it would have been
before. One that was convicted on ground truth and is acquitted by more of it is only recorded: a person releases it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core.attribution import Attribution
from gateway.core.fields import Json
from gateway.core.guardrails import Finding, Verdict
from gateway.core.policy import Facts, Rollback, evidence_body
from gateway.core.rollouts import Rollout, RolloutState


@dataclass(frozen=True, slots=True)
class Acquit:
    """The version was sound after all; the record of it, nothing more."""

    reason: str
    attribution: Attribution = Attribution.NONE
    evidence: Json = field(default_factory=dict)


def reopened(rollout: Rollout, findings: Sequence[Finding], facts: Facts) -> Rollback | Acquit | None:
    """Return what the ground truth of an ended rollout says against its end; None while it says nothing.

    Only guardrails that need ground truth and are no dry run count, and none while it cannot be relied on. For an acquittal every
    one of them must PASS, and nothing else stand against the version. A conviction needs automation; a record does not.
    """
    late = [finding for finding in findings if finding.guardrail.needs_truth and not finding.guardrail.is_dry_run]
    if rollout.is_open or facts.truth.doubt or facts.srm.is_mismatch or not late:
        return None
    evidence = evidence_body(rollout, findings, facts)
    if rollout.state is RolloutState.LIVE:
        failed = [finding.reason for finding in late if finding.convicts]
        if not failed or not facts.is_automation_on:
            return None
        return Rollback(f"ground truth after the promotion: {'; '.join(failed)}", Attribution.VERSION, evidence)
    is_sound = not facts.is_burst and not any(finding.convicts for finding in findings)
    if rollout.state is RolloutState.QUARANTINED and is_sound and all(finding.verdict is Verdict.PASS for finding in late):
        reasons = "; ".join(finding.reason for finding in late)
        return Acquit(f"ground truth after the rollback speaks for the version: {reasons}", evidence=evidence)
    return None
