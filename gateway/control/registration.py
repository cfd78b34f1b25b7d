"""Models and versions: registering, looking, retiring.

A version is validated in a process of its own, stored, and only then registered. The first version of a model becomes its
champion in the same commit, so that no model is without one; nothing was answering under that name before, so nothing can be
worse off while the workers warm it, and the answer waits for them. Later versions are registered only; a route or a rollout
puts them to work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TypeVar
from urllib.parse import quote

from gateway.control.calls import Answer, Call, Control, page_of
from gateway.control.propagation import SETTLE_S, prepared, settled
from gateway.control.upload import Upload
from gateway.core.access import Scope
from gateway.core.chains import manifest, members_before, named
from gateway.core.changes import Change, DropHold, PutChampion, PutVersion, Write
from gateway.core.errors import Conflict, MalformedRequest, NotReady, UnknownSubject, UnknownVersion, VersionExists
from gateway.core.fields import Json
from gateway.core.metadata import checked_public_name, metadata_from_body
from gateway.core.models import MEMBERS_MAX, Conversion, Metadata, Runtime, Version, VersionState
from gateway.core.tensors import Signature
from gateway.core.version_bodies import version_body

T = TypeVar("T")


def register(control: Control, call: Call) -> Answer:
    """Validate and register an uploaded version."""
    assert call.upload is not None
    upload = call.upload
    model = checked_public_name(call.path["model"], "model")
    metadata = metadata_from_body(upload.metadata)
    if metadata.runtime is Runtime.PICKLED:
        call.principal.require(Scope.REGISTER_PICKLED)  # before a byte of it is looked at: a pickle is a program
    if metadata.version is not None and _is_taken(control, model, metadata.version):  # early; the commit checks again
        raise VersionExists(
            f"version {metadata.version} of {model} exists, and versions are immutable", hint="choose another name, or none"
        )
    stated = _stated(model, metadata, upload)
    if metadata.conversion is not None:
        found = _converted(control, upload, stated, metadata.conversion)
    else:
        before = _before(control, metadata)
        found = in_turn(control, lambda: control.validator.validate(upload.artifact, upload.reference, stated, before=before))
    control.artifacts.put(upload.artifact, upload.digest)
    _put_manifest(control, found)
    with control.last_look:
        _before(control, metadata)  # it may have been retired meanwhile
        found = named(found, metadata.version or _next_name(control, model))
        version = replace(found, registered_at_s=control.clock.now_s())
        is_first = model not in control.registry.table().champions
        writes: tuple[Write, ...] = (PutVersion(version),)
        if is_first:
            writes = (*writes, PutChampion(model, version.version))
        subject = f"version:{model}/{version.version}"
        committed = control.registry.commit(
            Change(call.principal.name, "version.register", subject, metadata.description, writes)
        )
    not_warm = _warmed(control, version) if is_first else ""
    running = settled(control, committed.table_revision, timeout_s=SETTLE_S if is_first and not not_warm else 0.0)
    return Answer(
        {
            **version_body(version),
            "is_champion": is_first,
            "not_warm": not_warm,
            "table_revision": int(committed.table_revision),
            "workers": running,
        },
        201,
        {"Location": f"/api/v1/models/{quote(model)}/versions/{quote(version.version)}"},
    )


def list_models(control: Control, call: Call) -> Answer:
    """Return one page of models with their champions."""
    limit = call.asked("limit", int)
    models = control.registry.models(call.asked("after", str), limit + 1)
    return page_of("models", models, limit, show=lambda row: {"name": row[0], "champion": row[1]}, key=lambda row: row[0])


def show_model(control: Control, call: Call) -> Answer:
    """Return a model, its champion and one page of its versions."""
    answer = list_versions(control, call)
    return Answer({"name": call.path["model"], "champion": _champion(control, call.path["model"]), **answer.body})


def list_versions(control: Control, call: Call) -> Answer:
    """Return one page of a model's versions, in the order they were registered."""
    model, limit = call.path["model"], call.asked("limit", int)
    champion = _champion(control, model)
    versions = control.registry.versions(model, call.asked("after", str), limit + 1)
    return page_of("versions", versions, limit, show=lambda one: summary(one, champion=champion), key=lambda one: one.version)


def show_version(control: Control, call: Call) -> Answer:
    """Return everything known of a version."""
    version = control.registry.version(call.path["model"], call.path["version"])
    table = control.registry.table()
    is_champion = table.champions.get(version.model) == version.version
    is_held = (version.model, version.version) in table.holds
    return Answer({**version_body(version), "is_champion": is_champion, "is_held": is_held})


def retire(control: Control, call: Call) -> Answer:
    """Take a version out of use."""
    fields = call.fields("body")
    reason = fields.text("reason", "")
    fields.done()
    with control.last_look:  # so that no chain is registered with it meanwhile
        version = control.registry.version(call.path["model"], call.path["version"])
        if version.state is VersionState.RETIRED:
            raise Conflict(f"version {version.version} of {version.model} is retired already")
        _refuse_used(control, version)
        retired = replace(version, state=VersionState.RETIRED)
        subject = f"version:{version.model}/{version.version}"
        writes = (PutVersion(retired), DropHold(version.model, version.version))
        control.registry.commit(Change(call.principal.name, "version.retire", subject, reason, writes))
    return Answer({**version_body(retired), "is_champion": False})


def summary(version: Version, *, champion: str) -> Json:
    """Return a version without its reference profile, which may be large."""
    body = version_body(replace(version, profile=None))
    del body["profile"]
    return {**body, "has_profile": version.profile is not None, "is_champion": version.version == champion}


def _converted(control: Control, upload: Upload, version: Version, conversion: Conversion) -> Version:
    """Validate, convert and store the ONNX artifact; the pickle is kept as well, since the lineage names it."""
    if upload.reference is None:
        raise MalformedRequest("metadata.convert: a conversion is compared on a reference sample, and none was sent")
    reference, into = upload.reference, control.artifacts.staging()
    try:
        found = in_turn(control, lambda: control.validator.convert(upload.artifact, reference, version, conversion, into))
        control.artifacts.put(into, found.digest)
    finally:
        Path(into).unlink(missing_ok=True)
    return found


def _before(control: Control, metadata: Metadata) -> list[tuple[Version, PurePath]]:
    """Return the members before a version's own artifact, and where they lie.

    Raises:
        UnknownVersion: there is no such preprocessing version.
        Conflict: it is retired.
        MalformedRequest: the chain would be too long.
    """
    if metadata.preprocess is None:
        return []
    version = control.registry.version(*metadata.preprocess)
    where = f"metadata.preprocess: version {version.version} of {version.model}"
    if version.state is VersionState.RETIRED:
        raise Conflict(f"{where} is retired")
    members = members_before(version)
    if len(members) >= MEMBERS_MAX:
        raise MalformedRequest(f"{where} has {len(members)} members already, and a chain has at most {MEMBERS_MAX}")
    return [(member, control.artifacts.path(member.digest)) for member in members]


def _put_manifest(control: Control, version: Version) -> None:
    """Store the manifest of a chain, whose digest is the chain's."""
    if not version.members:
        return
    staged = Path(control.artifacts.staging())
    try:
        staged.write_bytes(manifest(version.members))
        control.artifacts.put(staged, version.digest)
    finally:
        staged.unlink(missing_ok=True)


def in_turn(control: Control, validate: Callable[[], T]) -> T:
    """Return what a validation process finds, when it is its turn: only so many run at once.

    Raises:
        NotReady: too many run for too long.
    """
    timeout_s = control.settings.validation_timeout_s
    if not control.validations.acquire(timeout=timeout_s):
        raise NotReady("too many versions are being validated", hint="try again in a minute")
    try:
        return validate()
    finally:
        control.validations.release()


def _warmed(control: Control, version: Version) -> str:
    """Wait until every worker is warm for a version; return what stands against it, or nothing."""
    try:
        with prepared(control, [(version.model, version.version)]):
            return ""  # the table needs it already
    except NotReady as error:
        return error.message


def _stated(model: str, metadata: Metadata, upload: Upload) -> Version:
    return Version(
        model=model,
        version=metadata.version or "",
        digest=upload.digest,
        size_bytes=upload.size_bytes,
        runtime=metadata.runtime,
        runtime_version="",
        signature=Signature((), ()),
        target=metadata.target,
        providers=metadata.providers,
        columns=metadata.columns,
        lineage=metadata.lineage,
        description=metadata.description,
        pickled=metadata.pickled,
        batching=metadata.batching,
        summaries=metadata.summaries,
    )


def _next_name(control: Control, model: str) -> str:
    """Return the least number that can be found free without reading every version: 1, 2, 3… while people name none.

    Doubles until a number is free, then halves the span between the last taken and the first free one.
    """
    free = 1
    while _is_taken(control, model, str(free)):
        free *= 2
    taken = free // 2
    while free - taken > 1:
        middle = (free + taken) // 2
        taken, free = (middle, free) if _is_taken(control, model, str(middle)) else (taken, middle)
    return str(free)


def _is_taken(control: Control, model: str, name: str) -> bool:
    try:
        control.registry.version(model, name)
    except UnknownVersion:
        return False
    return True


def _refuse_used(control: Control, version: Version) -> None:
    table = control.registry.table()
    if table.champions.get(version.model) == version.version:
        raise Conflict(f"version {version.version} is the champion of {version.model}", hint="promote another one first")
    for route in table.routes.values():
        if route.model == version.model and version.version in route.needs():
            raise Conflict(f"route {route.name} uses version {version.version}", hint="take it off the route first")
    if followers := control.registry.followers(version.model, version.version):
        model, name = followers[0]
        raise Conflict(
            f"version {name} of {model} runs version {version.version} of {version.model} before it", hint="retire that one first"
        )


def _champion(control: Control, model: str) -> str:
    champion = control.registry.table().champions.get(model)
    if champion is None:  # whoever registers a model's first version makes it champion
        raise UnknownSubject(f"there is no model {model!r}")
    return champion
