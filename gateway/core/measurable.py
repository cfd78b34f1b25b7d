"""Whether guardrails can say anything of two versions at all: what would say nothing for ever is refused before a rollout begins.

What may come later, such as ground truth or traffic, is not asked here; a shadow only by those that an advance needs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.core.errors import MalformedRequest
from gateway.core.expressions import FEATURE, compiled
from gateway.core.guardrails import DEFAULT_GUARDRAILS, PAIRED, Guardrail, Measure, Of
from gateway.core.models import Task, Version
from gateway.core.routes import Shadow


def refuse_unmeasurable(
    rails: Sequence[Guardrail], champion: Version, challenger: Version, *, shadows: Sequence[Shadow] = ()
) -> None:
    """Refuse guardrails that the versions give nothing to measure by; the default ones fit every version.

    Args:
        shadows: Of the route as the rollout begins. One that is required and compares copies waits for ever without them.

    Raises:
        MalformedRequest: a column, a reference or the meaning of the answer is missing; it names the guardrail and the version.
    """
    if tuple(rails) == DEFAULT_GUARDRAILS:
        return
    has_copies = any(shadow.version in (champion.version, challenger.version) for shadow in shadows)
    for rail in rails:
        if rail.is_required and rail.measure in PAIRED and not has_copies:
            raise MalformedRequest(
                f"plan.guardrails: {rail.name}: it is required and compares a shadow's answers, and neither the plan nor the "
                "route has a shadow of these versions",
                hint="a shadow phase in the plan makes one",
            )
        for version in (champion, challenger):
            for missing in _missing(rail, version, is_champion=version is champion):
                raise MalformedRequest(f"plan.guardrails: {rail.name}: version {version.version} of {version.model} {missing}")


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
