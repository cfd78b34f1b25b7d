"""Models and their versions: immutable artifacts with a digest, a signature and what their answer means."""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass, field, replace
from typing import NewType

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json, checked_name
from gateway.core.providers import CPU, providers_from_body
from gateway.core.summaries import SUMMARIES_MAX, Summary, summaries_from_body, summary_body
from gateway.core.tensors import VARIABLE, Datatype, Signature, TensorSpec

Digest = NewType("Digest", str)  # sha256 of an artifact, 64 hexadecimal digits
COLUMNS_MAX = 10_000  # a wide table; beyond it the features belong into one tensor without names
LABELS_MAX = 10_000
LABEL_LENGTH_MAX = 1_000
LINEAGE_CHARACTERS_MAX = 100_000  # as JSON: where a version comes from, not what it was made of
LINEAGE_LEVELS_MAX = 32  # of objects and arrays in each other; what shows a version or its audit entry stops at some 250
ATOL = 1e-5  # of a conversion: ONNX computes in FP32, whose rounding moves a probability by about 1e-6
RTOL = 1e-4
IMPORTS_MAX = 10_000  # of a pickle; a large pipeline has some fifty
INSTANCES_MAX = 64  # processes of one version on one worker; more than a machine's cores never helps
BATCH_ROWS_MAX = 4_096  # of one run; as many as may wait by default
BATCH_DELAY_MS_MAX = 1_000.0  # beyond it a delay is a queue of its own
MEMBERS_MAX = 3  # of a chain: encode, scale, predict; each one's run is added to every request's
DIMENSIONS_MAX = 32  # of a tensor, registered or sent; NumPy stops at 64, and no model has a tenth of them
RESERVED_NAMES = frozenset({"stats"})  # `/v2/models/stats` asks for the statistics of all models


class Runtime(enum.Enum):
    """What executes an artifact."""

    ONNX = "onnx"
    PICKLED = "pickled"
    CHAINED = "chained"  # members one after the other, each under its own runtime


class VersionState(enum.Enum):
    """Where a version stands in its own life; rollouts have states of their own."""

    REGISTERED = "REGISTERED"
    RETIRED = "RETIRED"


class Task(enum.Enum):
    """What kind of answer a version gives; it decides which loss ground truth is scored with."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Target:
    """What a version's answer means.

    Attributes:
        output: The output tensor that holds the answer; a probability, a class or a number by `task`.
        labels: The classes in the order of the output's last dimension; empty for regression.
        positive: The label counted as positive (binary only).
        threshold: Probability from which a binary answer is positive, in [0, 1].
        loss_max: Regression: the absolute error that counts as a loss of 1; smaller errors count in proportion.
    """

    task: Task = Task.OTHER
    output: str = ""
    labels: tuple[str, ...] = ()
    positive: str = ""
    threshold: float = 0.5
    loss_max: float = 1.0


class ColumnKind(enum.Enum):
    """How a feature is summarised and compared."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"


@dataclass(frozen=True, slots=True)
class Column:
    """One feature: a column of the wide input tensor, or a named input of shape [n, 1]."""

    name: str
    kind: ColumnKind = ColumnKind.NUMERIC


@dataclass(frozen=True, slots=True)
class Pickled:
    """How a pickled model is run, and what was found out about its pickle.

    Attributes:
        method: `predict`, `predict_proba` or another; empty until validation chose it.
        interpreter: Path of the Python that unpickles it; empty for the gateway's own.
        instances_min, instances_max: Processes on each worker.
        is_frame: Whether the method gets a pandas frame with the columns' names, not an array.
        format: `pickle` or `joblib`; empty until it was scanned.
        imports: Every `module:name` that the pickle imports, as the scan found them; nothing else is imported for it.
        convertible: `sklearn`, `lightgbm` or `xgboost` when it may be converted to ONNX.
    """

    method: str = ""
    interpreter: str = ""
    instances_min: int = 1
    instances_max: int = 2
    is_frame: bool = False
    format: str = ""
    imports: tuple[str, ...] = ()
    convertible: str = ""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The wish to register a pickled model as ONNX, and how far their answers may differ: |a - b| <= atol + rtol · |b|."""

    atol: float = ATOL
    rtol: float = RTOL


@dataclass(frozen=True, slots=True)
class Batching:
    """How rows of different requests are joined.

    Attributes:
        rows_max: Rows of one run; 0 for what warm-up finds best.
        delay_ms: How long a batch that is not full waits for more while an instance is free. Without a delay requests are joined
            all the same: those that arrive while a run goes on make the next.
    """

    rows_max: int = 0
    delay_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable artifact under a model, with everything that was found out when it was registered.

    Attributes:
        columns: The features in the order of the wide tensor's columns or of the named inputs; empty when not tabular.
        profile: The reference profile as its JSON body (see `core/profiles.py`), or None when no reference was given.
        cost_us_per_row: Measured at validation, one row a call, in µs; serving measures anew while it warms.
        runtime_version: Of the library that validated it, e.g. `1.31.1`.
        registered_at_s: Seconds since the epoch.
        warnings: What validation found odd but not wrong, one sentence each.
        is_joinable: Whether a row is answered alike alone and in a batch, so that rows of different requests may be joined.
        pickled: Of a pickled model, how it is run; None for every other runtime.
        members: Of a chain, the versions that run one after the other, the artifact registered under this name last.
        providers: What it may run on, the best first (see `core/providers.py`); the processor alone when empty.
    """

    model: str
    version: str
    digest: Digest
    size_bytes: int
    runtime: Runtime
    runtime_version: str
    signature: Signature
    target: Target = Target()
    columns: tuple[Column, ...] = ()
    profile: Json | None = None
    lineage: Json = field(default_factory=dict)
    description: str = ""
    cost_us_per_row: float = 0.0
    state: VersionState = VersionState.REGISTERED
    registered_at_s: float = 0.0
    warnings: tuple[str, ...] = ()
    is_joinable: bool = True
    pickled: Pickled | None = None
    batching: Batching = Batching()
    members: tuple[Version, ...] = ()
    providers: tuple[str, ...] = ()
    summaries: tuple[Summary, ...] = ()

    @property
    def provider(self) -> str:
        """What it runs on where everything it names is there; of a chain that of every member, in order."""
        return " + ".join(member.provider for member in self.members) or (*self.providers, CPU)[0]

    @property
    def has_pickle(self) -> bool:
        """Whether a pickled model answers, alone or as a member: in a process of its own, which may stand still."""
        return self.runtime is Runtime.PICKLED or any(member.runtime is Runtime.PICKLED for member in self.members)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the person who registers a version says of it (the `metadata` part of the upload).

    Attributes:
        preprocess: (model, version) of the version whose outputs are the artifact's inputs; None without one.
    """

    version: str | None = None
    runtime: Runtime = Runtime.ONNX
    target: Target = Target()
    columns: tuple[Column, ...] = ()
    lineage: Json = field(default_factory=dict)
    description: str = ""
    pickled: Pickled | None = None
    conversion: Conversion | None = None
    batching: Batching = Batching()
    preprocess: tuple[str, str] | None = None
    providers: tuple[str, ...] = ()
    summaries: tuple[Summary, ...] = ()


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
        profile=_object(fields.value("profile"), "version.profile") if fields.has("profile") else None,
        lineage=_object(fields.value("lineage"), "version.lineage"),
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


def _object(value: object, where: str) -> Json:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedRequest(f"{where}: expected an object")
    return dict(value)


def _lineage(value: object) -> Json:
    """Return a lineage that JSON can hold and a page can show."""
    lineage = _object(value, "metadata.lineage")
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


def _label(value: object, where: str) -> str:
    """Return a class's name; numbers and booleans are named as Python prints them."""
    if not isinstance(value, str | int | float):
        raise MalformedRequest(f"{where}: expected texts, numbers or booleans")
    return Fields({"label": str(value)}, where).text("label", length_max=LABEL_LENGTH_MAX)


def _size(value: object, where: str) -> int:
    return Fields({"shape": value}, where).integer("shape", VARIABLE, 1 << 62)
