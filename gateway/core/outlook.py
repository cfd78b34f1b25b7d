"""A rollout in sentences: where it stands, what it waits for, and how far each guardrail is from a decision.

Reads what the monitor last showed; a picture for people, on which nothing is decided. The forecasts assume that the next keys are
like those so far: an interval narrows with the root of its keys, and evidence grows with their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gateway.core.attribution import Attribution
from gateway.core.guardrails import Guardrail
from gateway.core.hindsight import Help
from gateway.core.rollouts import Rollout, RolloutState
from gateway.core.split import SLOTS

Shown = Mapping[str, object]


def explained(rollout: Rollout, evidence: Shown) -> list[str]:
    """Return where a rollout stands, one sentence a line.

    Args:
        evidence: What the monitor shows of it; empty while it shows nothing.
    """
    sentences = [_standing(rollout)]
    if not rollout.is_watched:
        return [*sentences, *([f"It ended so: {rollout.reason}."] if rollout.reason else []), *_aftermath(evidence)]
    findings = evidence.get("findings")
    if not isinstance(findings, list):
        return [*sentences, "The monitor has shown nothing of it yet."]
    if isinstance(reason := evidence.get("reason"), str) and reason:
        sentences.append(f"It waits: {reason}.")
    rails = {rail.name: rail for rail in rollout.plan.guardrails}
    told = [(finding, rails.get(str(finding.get("guardrail")))) for finding in findings if isinstance(finding, dict)]
    return [*sentences, *_hindsight(evidence), *(_told(finding, rail) for finding, rail in told if rail is not None)]


def keys_to_pass(finding: Shown, rail: Guardrail) -> int | None:
    """Return about how many more keys of the challenger a PASS takes; None when it is not in sight."""
    keys, harm = _number(finding, "challenger_count"), rail.direction.harm_of(_number(finding, "estimate"))
    worst = max(rail.direction.harm_of(_number(finding, name)) for name in ("lower", "upper"))
    if finding.get("verdict") != "INCONCLUSIVE" or keys <= 0.0 or harm >= rail.margin:
        return None
    by_interval = keys * (((worst - harm) / (rail.margin - harm)) ** 2 - 1.0)
    return max(1, math.ceil(max(by_interval, rail.samples_min - keys)))


def keys_to_fail(finding: Shown) -> int | None:
    """Return about how many more keys of the challenger a FAIL takes; None when the evidence does not grow."""
    keys, log_e, bound = (_number(finding, name) for name in ("challenger_count", "log_e", "bound"))
    if finding.get("verdict") == "FAIL" or keys <= 0.0 or log_e < 1.0:  # under e to the 1 it may as well be chance
        return None
    return max(1, math.ceil(keys * (bound - log_e) / log_e)) if bound > log_e else None


def _standing(rollout: Rollout) -> str:
    name = f"Version {rollout.challenger} of {rollout.model} is {rollout.state.value}"
    weight = rollout.plan.steps[min(rollout.step, len(rollout.plan.steps) - 1)].weight * 100 / SLOTS
    match rollout.state:
        case RolloutState.SHADOW:
            return f"{name}: it sees copies and answers nobody; version {rollout.champion} answers."
        case RolloutState.CANARY | RolloutState.BAKING | RolloutState.AWAITING_APPROVAL:
            return f"{name}: step {rollout.step + 1} of {len(rollout.plan.steps)}, {weight:.4g} % of the keys are its."
        case RolloutState.HELD:
            held_in = rollout.held_in.value if rollout.held_in else "?"
            return f"{name} since {held_in}; its weight stays as it was."
        case RolloutState.LIVE:
            return f"{name}: it answers everything."
        case RolloutState.ROLLED_BACK | RolloutState.QUARANTINED:
            return f"{name}; version {rollout.champion} answers everything."


def _hindsight(evidence: Shown) -> list[str]:
    """Return whether going back would help, by what the version before answers to the same requests."""
    findings = evidence.get("hindsight")
    asked = [one for one in findings if isinstance(one, dict)] if isinstance(findings, list) else []
    if not asked:
        return []
    verdicts = {str(one.get("verdict")) for one in asked}
    answer = Help.YES if "FAIL" in verdicts else Help.NO if verdicts == {"PASS"} else Help.UNKNOWN
    return [f"Would going back help? {answer.value.capitalize()}: {'; '.join(str(one.get('reason')) for one in asked)}."]


def _aftermath(evidence: Shown) -> list[str]:
    """Return whether going back helped, one sentence for each measure that the challenger was convicted by."""
    looks = evidence.get("aftermath")
    return [_looked(look) for look in (looks if isinstance(looks, list) else []) if isinstance(look, dict)]


def _looked(look: Shown) -> str:
    answer = {True: "Yes", False: "No"}.get(bool(look["has_helped"])) if look.get("has_helped") is not None else "Not known yet"
    before, after = (_number(look, name) for name in ("champion_before", "champion_after"))
    champion = f"the champion's {before:.4g} before and {after:.4g} after it ({_number(look, 'keys'):.0f} keys)"
    challenger = f"the challenger's {_number(look, 'challenger_before'):.4g}"
    return f"Did going back help? {answer}: {look.get('guardrail')}: {champion}; {challenger}."


def _told(finding: Shown, rail: Guardrail) -> str:
    parts = [
        f"{rail.name}{' (dry run)' if rail.is_dry_run else ''}: {finding.get('verdict')}",
        f"the difference is {_number(finding, 'estimate'):+.4g}, in [{_number(finding, 'lower'):.4g}, "
        f"{_number(finding, 'upper'):.4g}], margin {rail.margin:g}",
        f"log e {_number(finding, 'log_e_best'):.2f} of {_number(finding, 'bound'):.2f}",
        f"{_number(finding, 'challenger_count'):.0f} keys of the challenger",
    ]
    if (keys := keys_to_pass(finding, rail)) is not None:
        parts.append(f"about {keys} more to a pass")
    if (keys := keys_to_fail(finding)) is not None:
        parts.append(f"about {keys} more to a rollback")
    parts += _attribution(finding)
    parts += _remarks(finding)
    return "; ".join(parts) + "."


def _attribution(finding: Shown) -> list[str]:
    """Return where what was found comes from, and why, unless nothing moved."""
    named = str(finding.get("attribution", Attribution.NONE.value))
    return [] if named == Attribution.NONE.value else [f"{named}: {finding.get('why')}"]


def _remarks(finding: Shown) -> list[str]:
    """Return why a verdict may rest on nothing."""
    told = []
    if isinstance(same := finding.get("unvaried"), dict):
        records = f"{_number(same, 'records'):,.0f}"
        told.append(f"it was {_number(same, 'value'):.4g} in each of {records} records, and what never varies finds nothing")
    if isinstance(unmet := finding.get("unmet_segments"), list) and unmet:
        told.append(f"no key yet of {', '.join(map(str, unmet))}")
    return told


def _number(finding: Shown, name: str) -> float:
    value = finding.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
