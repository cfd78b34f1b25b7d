"""Models and their versions: immutable artifacts with a digest, a signature and what their answer means."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NewType

from gateway.core.fields import Json
from gateway.core.providers import CPU
from gateway.core.summaries import Summary
from gateway.core.tensors import Signature

Digest = NewType("Digest", str)  # sha256 of an artifact, 64 hexadecimal digits
COLUMNS_MAX = 10_000  # a wide table; beyond it the features belong into one tensor without names
ATOL = 1e-5  # of a conversion: ONNX computes in FP32, whose rounding moves a probability by about 1e-6
RTOL = 1e-4
IMPORTS_MAX = 10_000  # of a pickle; a large pipeline has some fifty
INSTANCES_MAX = 64  # processes of one version on one worker; more than a machine's cores never helps
BATCH_ROWS_MAX = 4_096  # of one run; as many as may wait by default
BATCH_DELAY_MS_MAX = 1_000.0  # beyond it a delay is a queue of its own
MEMBERS_MAX = 3  # of a chain: encode, scale, predict; each one's run is added to every request's
DIMENSIONS_MAX = 32  # of a tensor, registered or sent; NumPy stops at 64, and no model has a tenth of them


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
        rows_max: Rows of a run at most, and so of a request. 0 sets no bound: warm-up finds how many are joined best, and a
            request of more runs alone.
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
        profile: The reference profile as its JSON body (see `core/profile_bodies.py`), or None when no reference was given.
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
