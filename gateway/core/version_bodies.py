"""A version as the registry stores it and the admin API shows it, and read back."""

from __future__ import annotations

import dataclasses

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json
from gateway.core.models import (
    BATCH_DELAY_MS_MAX,
    BATCH_ROWS_MAX,
    COLUMNS_MAX,
    DIMENSIONS_MAX,
    IMPORTS_MAX,
    INSTANCES_MAX,
    MEMBERS_MAX,
    Batching,
    Column,
    ColumnKind,
    Digest,
    Pickled,
    Runtime,
    Target,
    Task,
    Version,
    VersionState,
)
from gateway.core.providers import providers_from_body
from gateway.core.summaries import SUMMARIES_MAX, summaries_from_body, summary_body
from gateway.core.tensors import VARIABLE, Datatype, Signature, TensorSpec

LABELS_MAX = 10_000
LABEL_LENGTH_MAX = 1_000


def target_from_body(body: object) -> Target:
    """Read a target.

    Raises:
        MalformedRequest: a field is wrong, or the positive label is not among the labels.
    """
    fields = Fields(body, "metadata.target")
    target = Target(
        task=fields.choice("task", Task),
        output=fields.text("output", "", length_max=200),
        labels=tuple(_label(label, "metadata.target.labels") for label in fields.items("labels", LABELS_MAX, ())),
        positive=_label(fields.value("positive"), "metadata.target.positive") if fields.value("positive") is not None else "",
        threshold=fields.number("threshold", 0.0, 1.0, 0.5),
        loss_max=fields.number("loss_max", 1e-12, 1e12, 1.0),
    )
    fields.done()
    if len(set(target.labels)) != len(target.labels):
        raise MalformedRequest("metadata.target.labels: two labels are the same")
    if target.positive and target.labels and target.positive not in target.labels:
        raise MalformedRequest("metadata.target.positive: not among the labels")
    return target


def batching_from_body(body: object, where: str) -> Batching:
    """Read how rows are joined; what is not said is automatic."""
    if body is None:
        return Batching()
    fields = Fields(body, where)
    batching = Batching(fields.integer("rows_max", 0, BATCH_ROWS_MAX, 0), fields.number("delay_ms", 0.0, BATCH_DELAY_MS_MAX, 0.0))
    fields.done()
    return batching


def column_from_body(body: object, where: str) -> Column:
    """Read a column, given as its name alone or as an object."""
    if isinstance(body, str):
        return Column(checked_column(body, where))
    fields = Fields(body, where)
    column = Column(checked_column(fields.text("name"), where), fields.choice("kind", ColumnKind, ColumnKind.NUMERIC))
    fields.done()
    return column


def checked_column(name: str, where: str) -> str:
    """Return a column's name if it is printable and short; it never becomes part of a path."""
    if not 0 < len(name) <= 200 or not name.isprintable():
        raise MalformedRequest(f"{where}: a column's name has 1 to 200 printable characters")
    return name


def version_body(version: Version) -> Json:
    """Return a version as the admin API shows it and the registry stores it; `version_from_body` reads it back."""
    return {
        "model": version.model,
        "version": version.version,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "runtime": version.runtime.value,
        "runtime_version": version.runtime_version,
        "signature": signature_body(version.signature),
        "target": target_body(version.target),
        "columns": [{"name": column.name, "kind": column.kind.value} for column in version.columns],
        "profile": version.profile,
        "lineage": version.lineage,
        "description": version.description,
        "cost_us_per_row": version.cost_us_per_row,
        "state": version.state.value,
        "registered_at_s": version.registered_at_s,
        "warnings": list(version.warnings),
        "is_joinable": version.is_joinable,
        "pickled": None if version.pickled is None else _pickled_body(version.pickled),
        "batching": {"rows_max": version.batching.rows_max, "delay_ms": version.batching.delay_ms},
        "summaries": [summary_body(summary) for summary in version.summaries],
        "members": [version_body(member) for member in version.members],
        "providers": list(version.providers),
    }


def version_from_body(body: object) -> Version:
    """Read what `version_body` wrote."""
    fields = Fields(body, "version")
    return Version(
        model=fields.text("model"),
        version=fields.text("version"),
        digest=Digest(fields.text("digest")),
        size_bytes=fields.integer("size_bytes", 0, 1 << 62),
        runtime=fields.choice("runtime", Runtime),
        runtime_version=fields.text("runtime_version"),
        signature=signature_from_body(fields.value("signature")),
        target=target_from_body(fields.value("target")),
        columns=tuple(column_from_body(item, "version.columns") for item in fields.items("columns", COLUMNS_MAX)),
        profile=object_of(fields.value("profile"), "version.profile") if fields.has("profile") else None,
        lineage=object_of(fields.value("lineage"), "version.lineage"),
        description=fields.text("description", ""),
        cost_us_per_row=fields.number("cost_us_per_row", 0.0, 1e12),
        state=fields.choice("state", VersionState),
        registered_at_s=fields.number("registered_at_s", 0.0, 1e12),
        warnings=tuple(str(warning) for warning in fields.items("warnings", 100, ())),
        is_joinable=fields.boolean("is_joinable", True),
        batching=batching_from_body(fields.value("batching"), "version.batching"),
        summaries=summaries_from_body(fields.items("summaries", SUMMARIES_MAX, ()), "version.summaries"),
        pickled=_pickled_from_body(fields.value("pickled")),
        members=tuple(version_from_body(member) for member in fields.items("members", MEMBERS_MAX, ())),
        providers=providers_from_body(fields, "version"),
    )


def _pickled_body(pickled: Pickled) -> Json:
    return {
        **{field.name: getattr(pickled, field.name) for field in dataclasses.fields(pickled)},
        "imports": list(pickled.imports),
    }


def _pickled_from_body(body: object) -> Pickled | None:
    if body is None:
        return None
    fields = Fields(body, "version.pickled")
    return Pickled(
        method=fields.text("method"),
        interpreter=fields.text("interpreter"),
        instances_min=fields.integer("instances_min", 1, INSTANCES_MAX),
        instances_max=fields.integer("instances_max", 1, INSTANCES_MAX),
        is_frame=fields.boolean("is_frame"),
        format=fields.text("format"),
        imports=tuple(str(name) for name in fields.items("imports", IMPORTS_MAX)),
        convertible=fields.text("convertible"),
    )


def signature_body(signature: Signature) -> Json:
    """Return a signature in the protocol's form."""
    return {
        side: [{"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)} for spec in specs]
        for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }


def signature_from_body(body: object) -> Signature:
    """Read what `signature_body` wrote."""
    fields = Fields(body, "signature")
    return Signature(inputs=_specs(fields, "inputs"), outputs=_specs(fields, "outputs"))


def _specs(fields: Fields, side: str) -> tuple[TensorSpec, ...]:
    readers = [Fields(item, f"signature.{side}") for item in fields.items(side, COLUMNS_MAX)]
    return tuple(
        TensorSpec(
            name=reader.text("name"),
            datatype=reader.choice("datatype", Datatype),
            shape=tuple(_size(size, f"signature.{side}") for size in reader.items("shape", DIMENSIONS_MAX)),
        )
        for reader in readers
    )


def target_body(target: Target) -> Json:
    """Return a target as `target_from_body` reads it."""
    return {
        "task": target.task.value,
        "output": target.output,
        "labels": list(target.labels),
        "positive": target.positive,
        "threshold": target.threshold,
        "loss_max": target.loss_max,
    }


def object_of(value: object, where: str) -> Json:
    """Return an object; nothing is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedRequest(f"{where}: expected an object")
    return dict(value)


def _label(value: object, where: str) -> str:
    """Return a class's name; numbers and booleans are named as Python prints them."""
    if not isinstance(value, str | int | float):
        raise MalformedRequest(f"{where}: expected texts, numbers or booleans")
    return Fields({"label": str(value)}, where).text("label", length_max=LABEL_LENGTH_MAX)


def _size(value: object, where: str) -> int:
    return Fields({"shape": value}, where).integer("shape", VARIABLE, 1 << 62)
