"""Whether guardrails can say anything of two versions at all: what would say nothing for ever is refused before a rollout begins.

What may come later, such as ground truth or traffic, is not asked here; a shadow only by those that an advance needs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.core.errors import MalformedRequest
from gateway.core.expressions import FEATURE, Kind, compiled
from gateway.core.guardrails import DEFAULT_GUARDRAILS, PAIRED, Guardrail, Measure, Of
from gateway.core.models import Task, Version
from gateway.core.routes import Shadow
from gateway.core.tensors import Datatype


def refuse_unmeasurable(
    rails: Sequence[Guardrail], champion: Version, challenger: Version, *, shadows: Sequence[Shadow] = ()
) -> None:
    """Refuse guardrails that the versions give nothing to measure by; the default ones fit every version.

    Args:
        shadows: Of the route as the rollout begins. One that is required and compares copies waits for ever without them.

    Raises:
        MalformedRequest: a column, a reference or the meaning of the answer is missing, or an expression takes numbers for text;
            it names the guardrail and the version.
    """
    if tuple(rails) == DEFAULT_GUARDRAILS:
        return
    refuse_constant(rails)
    has_copies = any(shadow.version in (champion.version, challenger.version) for shadow in shadows)
    for rail in rails:
        if rail.is_required and rail.measure in PAIRED and not has_copies:
            raise MalformedRequest(
                f"plan.guardrails: {rail.name}: it is required and compares a shadow's answers, and neither the plan nor the "
                "route has a shadow of these versions",
                hint="a shadow phase in the plan makes one",
            )
        for version in (champion, challenger):
            if rail.measure is Measure.EXPRESSION:
                where = f"plan.guardrails: {rail.name}: of version {version.version} of {version.model}"
                compiled(rail.options.expression, where, kinds=_kinds(version))
            for missing in _missing(rail, version, is_champion=version is champion):
                raise MalformedRequest(f"plan.guardrails: {rail.name}: version {version.version} of {version.model} {missing}")


def refuse_constant(rails: Sequence[Guardrail]) -> None:
    """Refuse measures of one's own that come to the same for every record, as far as the expression tells: they find nothing.

    Not asked where a plan is read back, which must succeed whatever is refused today.

    Raises:
        MalformedRequest: it names the guardrail and what it always comes to.
    """
    for rail in rails:
        low, high = rail.options.low, rail.options.high
        if rail.measure is Measure.EXPRESSION and low is not None and high is not None:
            may_be = compiled(rail.options.expression, rail.name).range.clipped(low, high)
            if may_be.is_one:
                raise MalformedRequest(
                    f"plan.guardrails: {rail.name}: its expression is the same for every record, {may_be.low:g} within "
                    f"[{low:g}, {high:g}]; expected what differs between records"
                )


def _missing(rail: Guardrail, version: Version, *, is_champion: bool) -> Iterator[str]:
    """Yield what a version lacks for a guardrail."""
    columns = {column.name for column in version.columns}
    for name in sorted(_columns(rail) - columns):
        yield f"has no column {name!r}; known are {', '.join(sorted(columns)[:20]) or 'none'}"
    if rail.measure is Measure.DATA_QUALITY and is_champion and version.profile is None:
        yield "was registered without a reference, which says what inputs should look like"
    tasks = _tasks(rail)
    if version.target.task not in tasks:
        wanted = " or ".join(task.value for task in tasks)
        yield f"has a target of the task {version.target.task.value}, this measure needs {wanted}"


def _kinds(version: Version) -> dict[str, Kind]:
    """Return whether a version's columns hold text or numbers, by their names in expressions."""
    datatypes = {spec.name: spec.datatype for spec in version.signature.inputs}
    wide = next(iter(datatypes.values())) if len(datatypes) == 1 else None
    found = {column.name: datatypes.get(column.name, wide) for column in version.columns}
    return {f"{FEATURE}{name}": str if one is Datatype.BYTES else float for name, one in found.items() if one is not None}


def _columns(rail: Guardrail) -> set[str]:
    """Return the columns that a guardrail names."""
    if rail.measure is Measure.EXPRESSION:
        names = compiled(rail.options.expression, rail.name).names
        return {name.removeprefix(FEATURE) for name in names if name.startswith(FEATURE)}
    return {rail.options.column} - {""}


def _tasks(rail: Guardrail) -> tuple[Task, ...]:
    """Return the tasks whose answers a guardrail can read."""
    if rail.measure is Measure.CALIBRATION:
        return (Task.BINARY, Task.MULTICLASS)
    if rail.measure is Measure.FAIRNESS and rail.options.of is Of.POSITIVES:
        return (Task.BINARY,)
    return tuple(task for task in Task if task is not Task.OTHER or not rail.needs_truth)
