"""What the person who registers a version says of it, read from the upload's `metadata`."""

from __future__ import annotations

import json
from dataclasses import replace

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json, checked_name
from gateway.core.models import ATOL, COLUMNS_MAX, INSTANCES_MAX, RTOL, Conversion, Metadata, Pickled, Runtime, Target, Task
from gateway.core.providers import providers_from_body
from gateway.core.summaries import SUMMARIES_MAX, summaries_from_body
from gateway.core.version_bodies import batching_from_body, column_from_body, object_of, target_from_body

LINEAGE_CHARACTERS_MAX = 100_000  # as JSON: where a version comes from, not what it was made of
LINEAGE_LEVELS_MAX = 32  # of objects and arrays in each other; what shows a version or its audit entry stops at some 250
RESERVED_NAMES = frozenset({"stats"})  # `/v2/models/stats` asks for the statistics of all models


def checked_public_name(name: str, where: str) -> str:
    """Return the name of a new model or route if callers can ask for it unmistakably.

    Raises:
        MalformedRequest: it is not safe (see `checked_name`), reserved by the protocol, or lost characters on its way.
    """
    if name in RESERVED_NAMES:
        raise MalformedRequest(f"{where}: {name!r} is reserved by the protocol", hint="choose another name")
    if "\ufffd" in name:
        raise MalformedRequest(f"{where}: a name has no U+FFFD, which stands for what could not be read")
    return checked_name(name, where)


def metadata_from_body(body: object) -> Metadata:
    """Read the `metadata` part of a registration.

    Raises:
        MalformedRequest: a field is unknown, missing or of the wrong type, or the labels do not fit the task.
    """
    fields = Fields(body, "metadata")
    metadata = Metadata(
        version=fields.name("version") if fields.value("version") is not None else None,
        runtime=fields.choice("runtime", Runtime, Runtime.ONNX),
        target=Target() if fields.value("target") is None else target_from_body(fields.value("target")),
        columns=tuple(
            column_from_body(item, f"metadata.columns[{at}]") for at, item in enumerate(fields.items("columns", COLUMNS_MAX, ()))
        ),
        lineage=_lineage(fields.value("lineage")),
        description=fields.text("description", ""),
        pickled=_stated_pickled(fields.value("pickled")),
        conversion=conversion_from_body(fields.value("convert")),
        batching=batching_from_body(fields.value("batching"), "metadata.batching"),
        summaries=summaries_from_body(fields.items("summaries", SUMMARIES_MAX, ()), "metadata.summaries"),
        preprocess=_named_version(fields.value("preprocess")),
        providers=providers_from_body(fields, "metadata"),
    )
    fields.done()
    _refuse_other_runtime(metadata)
    if metadata.runtime is Runtime.PICKLED and metadata.pickled is None:
        metadata = replace(metadata, pickled=Pickled())
    names = [column.name for column in metadata.columns]
    if len(set(names)) != len(names):
        raise MalformedRequest("metadata.columns: two columns have the same name")
    if metadata.target.task is Task.BINARY and len(metadata.target.labels) not in (0, 2):
        raise MalformedRequest(
            f"metadata.target.labels: a binary target has two labels or none named, not {len(metadata.target.labels)}",
            hint="declare the task multiclass for more",
        )
    return metadata


def _refuse_other_runtime(metadata: Metadata) -> None:
    """Refuse what is said of another runtime than the artifact's."""
    if metadata.runtime is Runtime.CHAINED:
        raise MalformedRequest("metadata.runtime: a chain is no artifact", hint="name the version before it in preprocess")
    if metadata.runtime is not Runtime.PICKLED and (metadata.pickled or metadata.conversion):
        raise MalformedRequest(
            "metadata.pickled, metadata.convert: only for the runtime pickled", hint='set "runtime": "pickled"'
        )
    if metadata.runtime is not Runtime.ONNX and metadata.providers and not metadata.conversion:
        raise MalformedRequest("metadata.providers: only for the runtime onnx", hint="convert it, or leave them out")
    if metadata.runtime is not Runtime.ONNX and metadata.preprocess:
        raise MalformedRequest(
            "metadata.preprocess: only for the runtime onnx", hint="a pickled pipeline may hold its own preprocessing"
        )


def conversion_from_body(body: object) -> Conversion | None:
    """Read `true`, `false`, or an object with tolerances."""
    if body is None or isinstance(body, bool):
        return Conversion() if body else None
    fields = Fields(body, "metadata.convert")
    conversion = Conversion(fields.number("atol", 0.0, 1e6, ATOL), fields.number("rtol", 0.0, 1.0, RTOL))
    fields.done()
    return conversion


def _named_version(body: object) -> tuple[str, str] | None:
    """Read the name of a version of any model."""
    if body is None:
        return None
    fields = Fields(body, "metadata.preprocess")
    named = fields.name("model"), fields.name("version")
    fields.done()
    return named


def _stated_pickled(body: object) -> Pickled | None:
    """Read what a person may say of a pickled model."""
    if body is None:
        return None
    fields = Fields(body, "metadata.pickled")
    least = fields.integer("instances_min", 1, INSTANCES_MAX, 1)
    pickled = Pickled(
        method=fields.text("method", "", length_max=200),
        interpreter=fields.text("interpreter", "", length_max=4_096),
        instances_min=least,
        instances_max=fields.integer("instances_max", least, INSTANCES_MAX, max(least, 2)),
    )
    fields.done()
    return pickled


def _lineage(value: object) -> Json:
    """Return a lineage that JSON can hold and a page can show."""
    lineage = object_of(value, "metadata.lineage")
    if _has_levels_over(lineage, LINEAGE_LEVELS_MAX):
        raise MalformedRequest(f"metadata.lineage: expected JSON nested at most {LINEAGE_LEVELS_MAX} levels deep")
    try:
        length = len(json.dumps(lineage, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise MalformedRequest(f"metadata.lineage: expected JSON without NaN: {error}") from error
    if length > LINEAGE_CHARACTERS_MAX:
        raise MalformedRequest(f"metadata.lineage: expected at most {LINEAGE_CHARACTERS_MAX} characters of JSON")
    return lineage


def _has_levels_over(value: object, levels: int) -> bool:
    """Return whether objects and arrays lie in each other more than so many levels deep."""
    if not isinstance(value, dict | list):
        return False
    return levels == 0 or any(
        _has_levels_over(item, levels - 1) for item in (value.values() if isinstance(value, dict) else value)
    )
