"""The trial of a chain: do the members fit one another, and does the whole answer sensibly on the reference.

The members were tried when they were registered, so that what is found out here is about the chain alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adapters.runtimes.chained import loaded
from adapters.runtimes.onnx import OnnxRuntime, providers
from adapters.validation.graph import read_signature
from adapters.validation.pickled import pickled_runtime
from adapters.validation.sample import Sample
from adapters.validation.trial import checked_target, does_not_run, on_processor, tried
from gateway.core.chains import chain_of
from gateway.core.errors import ModelFault, NotValid
from gateway.core.fields import Json
from gateway.core.models import Column, Version
from gateway.core.models import Runtime as RuntimeName
from gateway.core.providers import refuse_absent
from gateway.ports.runtimes import Runtime

Lying = tuple[Version, Path]  # a member and where its artifact lies


def validated_chain(
    artifact: Path, reference: Path | None, version: Version, before: Sequence[Lying], pickles: Json | None
) -> Version:
    """Return the chain of the members before and `version` with everything filled in.

    Args:
        pickles: As of `validated_pickle`; None when no member is pickled.

    Raises:
        NotValid: with the reason.
    """
    refuse_absent(version.providers, providers())
    alone = replace(version, signature=read_signature(artifact), columns=())
    stated = chain_of(alone, [member for member, _ in before])
    stated = replace(
        stated,
        target=checked_target(version.target, stated.signature),
        columns=_columns(version.columns, before[0][0]),
    )
    runtimes: dict[RuntimeName, Runtime] = {RuntimeName.ONNX: OnnxRuntime()}
    if pickles is not None:
        runtimes[RuntimeName.PICKLED] = pickled_runtime(pickles)
    places = [*((_tried(member), path) for member, path in before), (_tried(stated.members[-1]), artifact)]
    try:
        instance = loaded(places, runtimes)
        try:
            found = tried(instance, stated, None if reference is None else Sample(reference))
        finally:
            instance.close()
    except ModelFault as error:
        raise does_not_run(error, reference) from error
    own = replace(stated.members[-1], runtime_version=found.runtime_version.rpartition(" + ")[2])
    return replace(
        found,
        is_joinable=found.is_joinable and all(one.is_joinable and one.signature.is_batched for one in stated.members),
        members=(*stated.members[:-1], own),
    )


def _columns(stated: tuple[Column, ...], first: Version) -> tuple[Column, ...]:
    """Return the columns of the first member's inputs, with kinds as stated.

    Raises:
        NotValid: it has others than those stated.
    """
    names = [column.name for column in first.columns]
    if stated and names and [column.name for column in stated] != names:
        raise NotValid(
            f"metadata.columns are not those of version {first.version} of {first.model}, which takes {', '.join(names[:20])}",
            hint="leave them out: they are taken over",
        )
    return stated or first.columns


def _tried(member: Version) -> Version:
    """Return a member as it is tried: on the processor, by one process if by any, as the trial asks one question at a time."""
    if member.pickled is None:
        return on_processor(member)
    return replace(member, pickled=replace(member.pickled, instances_min=1, instances_max=1))
