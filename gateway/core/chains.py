"""Chains: versions that run one after the other as one unit, each member's outputs the next one's inputs.

A chain is a version like any other. Its members are copied into it when it is registered, so that it needs nothing but their
artifacts and changes with nothing. Its digest is that of a manifest, which lies in the artifact store beside them and names
every artifact, how it is called and by what: another member is another digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from gateway.core.errors import NotValid
from gateway.core.models import MEMBERS_MAX, Digest, Runtime, Target, Version, VersionState
from gateway.core.tensors import Signature, TensorSpec


def chain_of(version: Version, before: Sequence[Version]) -> Version:
    """Return the chain of preprocessing members and a version whose signature is that of its artifact alone.

    Inputs and columns are those of the first member, outputs the version's own.

    Raises:
        NotValid: a member's inputs are not what the one before it answers, or there are too many members.
    """
    members = (*before, _as_member(version))
    if len(members) > MEMBERS_MAX:
        raise NotValid(f"a chain has at most {MEMBERS_MAX} members, and this one would have {len(members)}")
    for producer, consumer in pairwise(members):
        sources(producer, consumer)
    rows_max = min((one.batching.rows_max for one in members if one.batching.rows_max), default=0)  # 0 leaves it to warm-up
    return replace(
        version,
        digest=Digest(hashlib.sha256(manifest(members)).hexdigest()),
        size_bytes=sum(member.size_bytes for member in members),
        runtime=Runtime.CHAINED,
        signature=Signature(members[0].signature.inputs, version.signature.outputs),
        batching=replace(version.batching, rows_max=rows_max),
        members=members,
    )


def members_before(version: Version) -> tuple[Version, ...]:
    """Return what a version contributes to a chain that names it as preprocessing: itself, or its own members."""
    return version.members or (_as_member(version),)


def named(version: Version, name: str) -> Version:
    """Return a version under its name, which its own member bears too."""
    own = tuple(replace(member, version=name) for member in version.members[-1:])
    return replace(version, version=name, members=(*version.members[:-1], *own))


def manifest(members: Sequence[Version]) -> bytes:
    """Return the text whose sha256 is the digest of a chain of these members."""
    return json.dumps({"members": [_named_part(member) for member in members]}, indent=1).encode() + b"\n"


def _named_part(member: Version) -> dict[str, object]:
    """Return all that a member's answers depend on; what is usual goes without saying."""
    part: dict[str, object] = {"digest": member.digest, "runtime": member.runtime.value, "method": ""}
    if (pickled := member.pickled) is None:
        return part
    part["method"] = pickled.method
    if pickled.interpreter:
        part["interpreter"] = pickled.interpreter
    if pickled.is_frame:
        part["frame"] = [column.name for column in member.columns]
    return part


def digests_of(version: Version) -> tuple[Digest, ...]:
    """Return every digest that a version stands for: its own, its members', and those of chains that it goes on from."""
    parts = [member.digest for member in version.members]
    shorter = [hashlib.sha256(manifest(version.members[:count])).hexdigest() for count in range(2, len(version.members))]
    return (version.digest, *parts, *map(Digest, shorter))


def follows(version: Version, model: str, name: str) -> bool:
    """Return whether a version, not retired, is a chain with another version as a member before its own artifact."""
    before = [(member.model, member.version) for member in version.members[:-1]]
    return version.state is not VersionState.RETIRED and (model, name) in before


def sources(producer: Version, consumer: Version) -> dict[str, str]:
    """Return the producer's output for each of the consumer's inputs: of the same name, or the only one for the only one.

    Raises:
        NotValid: there is none, or its datatype or shape is not what the input takes.
    """
    outputs = {spec.name: spec for spec in producer.signature.outputs}
    inputs = consumer.signature.inputs
    if len(outputs) == len(inputs) == 1:
        outputs = {inputs[0].name: producer.signature.outputs[0]}
    return {spec.name: _checked_source(spec, outputs.get(spec.name), producer).name for spec in inputs}


def _checked_source(wanted: TensorSpec, found: TensorSpec | None, producer: Version) -> TensorSpec:
    name = f"version {producer.version} of {producer.model}"
    if found is None:
        answered = ", ".join(spec.name for spec in producer.signature.outputs[:20])
        raise NotValid(f"input {wanted.name!r} is none of what {name} answers: {answered}", hint="give both the same name")
    if found.datatype is not wanted.datatype or not wanted.accepts(found.shape):
        raise NotValid(
            f"input {wanted.name!r} takes {_form(wanted)}, and {name} answers {found.name!r} as {_form(found)}",
            hint="cast or reshape it in one of the two, or declare its shape when exporting",
        )
    return found


def _form(spec: TensorSpec) -> str:
    return f"{spec.datatype.value}{list(spec.shape)}"


def _as_member(version: Version) -> Version:
    """Return a version without what only matters of a version that is called by its name."""
    return replace(version, target=Target(), profile=None, lineage={}, description="", warnings=())
