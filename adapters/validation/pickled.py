"""The trial of a pickled version: scanned, unpickled in a confined process, asked what it is, and run on the reference.

Neither a signature nor the names of columns stand in a pickle, so that they come from the metadata, from what the model says of
itself, and from the reference sample, in this order; where these contradict one another the version is refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from adapters.runtimes.pickled import PickledRuntime
from adapters.runtimes.pickles.answers import registered
from adapters.runtimes.pickles.forkserver import Fork
from adapters.runtimes.pickles.framing import Broken, Late
from adapters.runtimes.pickles.limits import Limits
from adapters.runtimes.pickles.orders import plan_of
from adapters.validation.sample import Sample
from adapters.validation.trial import checked_target, does_not_run, rows_of_sample, tried
from gateway.core.errors import LoadFailed, ModelFault, NotValid, PredictFailed
from gateway.core.models import Column, ColumnKind, Pickled, Target, Task, Version
from gateway.core.providers import CPU
from gateway.core.tensors import NUMPY_DTYPES, VARIABLE, Array, Datatype, Signature, TensorSpec

INPUT: Final = "input"  # the one wide tensor
OUTPUTS: Final = {"predict_proba": "probability"}
OUTPUT: Final = "prediction"
_DATATYPES: Final = {dtype: datatype for datatype, dtype in NUMPY_DTYPES.items() if datatype is not Datatype.BF16}  # held as FP32
_CODE_MODULES: Final = frozenset({"cloudpickle.cloudpickle", "cloudpickle.cloudpickle_fast", "dill._dill"})


def validated_pickle(
    artifact: Path, reference: Path | None, version: Version, pickles: Mapping[str, Any], conversion: Mapping[str, Any] | None
) -> Version:
    """Return `version` with everything filled in; the ONNX version when a conversion is asked for.

    Args:
        pickles: `limits`, `interpreter`, `interpreters`, as `ProcessValidator` sends them.
        conversion: `into`, `atol`, `rtol`.

    Raises:
        NotValid: with the reason.
    """
    limits, runtime = _limits(pickles), pickled_runtime(pickles)
    assert version.pickled is not None
    try:
        fork = runtime.opened(artifact, version.digest, version.pickled)
    except LoadFailed as error:
        raise NotValid(error.message, hint=error.hint) from error
    sample = None if reference is None else Sample(reference)
    try:
        instance = _Trial(fork, limits)
        stated = _described(instance, version, version.pickled, sample)
        found = tried(instance, stated, sample)
        if conversion is None:
            return found
        from adapters.validation.conversion import converted

        return converted(fork, instance, found, reference=reference, conversion=conversion, limits=limits)
    except ModelFault as error:
        raise does_not_run(error, reference) from error
    finally:
        fork.end()


def pickled_runtime(pickles: Mapping[str, Any]) -> PickledRuntime:
    """Return the runtime that the order of a validation describes."""
    return PickledRuntime(limits=_limits(pickles), interpreter=pickles["interpreter"], interpreters=pickles["interpreters"])


def _limits(pickles: Mapping[str, Any]) -> Limits:
    return Limits(**{**pickles["limits"], "scratch": Path(pickles["limits"]["scratch"])})


class _Trial:
    """An `Instance` over the one process of the trial."""

    def __init__(self, fork: Fork, limits: Limits) -> None:
        self.fork = fork
        self.concurrency = 1
        self.provider = CPU
        self.runtime_version = str(fork.facts.get("library", ""))[:200]
        self._limits = limits
        self._signature = Signature((), ())

    def follow(self, pickled: Pickled, signature: Signature, columns: tuple[Column, ...]) -> None:
        """Call it this way from now on."""
        self._signature = signature
        plan = plan_of(pickled, signature, [column.name for column in columns])
        self._within(lambda deadline_s: self.fork.follow(plan, deadline_s))

    def answer(self, inputs: Mapping[str, Array]) -> Array:
        """Return the raw answer, whatever its type and shape."""
        arrays = [inputs[spec.name] for spec in self._signature.inputs]
        answer: Array = self._within(lambda deadline_s: self.fork.predict(arrays, deadline_s))
        return answer

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the answer under the output's name."""
        spec = self._signature.outputs[0]
        return {spec.name: registered(self.answer(inputs), spec)}

    def close(self) -> None:
        """End the process."""
        self.fork.end()

    def _within(self, ask: Any) -> Any:
        timeout_s = self._limits.load_timeout_s  # whole batches of the reference; serving's bound is for what callers send
        try:
            return ask(time.monotonic() + timeout_s)
        except Late as error:
            raise PredictFailed(f"it did not answer within {timeout_s:g} s") from error
        except Broken as error:
            self.fork.end()
            raise PredictFailed(f"its process {self.fork.ending()}") from error


def _described(instance: _Trial, version: Version, stated: Pickled, sample: Sample | None) -> Version:
    """Return the version with signature, target, columns, and how the model is called."""
    facts = instance.fork.facts
    pickled = replace(
        stated,
        method=stated.method or _method(facts, version.target),
        format=facts["format"],
        imports=tuple(facts["imports"]),
        convertible=facts["family"],
    )
    columns = _columns(version.columns, facts, sample)
    is_text = any(column.kind is ColumnKind.CATEGORICAL for column in columns)
    inputs = tuple(_named(column) for column in columns) if is_text else (_wide(facts, columns),)
    frames = (True,) if is_text else (False, True) if facts["feature_names"] else (False,)
    rows = rows_of_sample(Signature(inputs, ()), columns, sample)
    for is_frame in frames:
        pickled = replace(pickled, is_frame=is_frame)
        instance.follow(pickled, Signature(inputs, ()), columns)
        try:
            answer = instance.answer(rows)
            break
        except PredictFailed:
            if is_frame == frames[-1]:
                raise
    signature = Signature(inputs, (_output(pickled.method, answer, len(next(iter(rows.values())))),))
    instance.follow(pickled, signature, columns)
    target = _target(version.target, pickled.method, facts)
    return replace(
        version,
        signature=signature,
        target=checked_target(target, signature),
        columns=columns,
        pickled=pickled,
        warnings=(*version.warnings, *_warnings(pickled, facts)),
    )


def _method(facts: Mapping[str, Any], target: Target) -> str:
    methods = facts["methods"]
    if not methods:
        raise NotValid(f"the pickle holds a {facts['class']}, which has neither predict nor predict_proba")
    wants_classes = target.task in (Task.BINARY, Task.MULTICLASS) or (target.task is Task.OTHER and bool(facts["classes"]))
    if wants_classes and "predict_proba" in methods:
        return "predict_proba"
    return "predict" if "predict" in methods else str(methods[0])


def _columns(stated: tuple[Column, ...], facts: Mapping[str, Any], sample: Sample | None) -> tuple[Column, ...]:
    """Return the columns in the order in which the model was fitted, text as categorical.

    Raises:
        NotValid: they are not those that the model names or counts.
    """
    own: list[str] = facts["feature_names"]
    given = {column.name: column for column in stated}
    if own and given and set(own) != set(given):
        odd = sorted(set(own) ^ set(given))
        raise NotValid(f"metadata.columns and the features the model was fitted with differ in {', '.join(map(repr, odd[:10]))}")
    names = own or list(given) or ([] if sample is None else list(sample.columns))
    if names and facts["features"] and len(names) != facts["features"]:
        said = "metadata.columns" if given else "the reference"
        raise NotValid(
            f"the model was fitted with {facts['features']} features, and {said} has {len(names)}",
            hint="name the features, in order, in metadata.columns",
        )
    return tuple(_column(given.get(name, Column(name)), sample) for name in names)


def _column(column: Column, sample: Sample | None) -> Column:
    is_text = sample is not None and sample.is_text(column.name)
    return replace(column, kind=ColumnKind.CATEGORICAL) if is_text else column


def _named(column: Column) -> TensorSpec:
    return TensorSpec(column.name, Datatype.BYTES if column.kind is ColumnKind.CATEGORICAL else Datatype.FP64, (VARIABLE, 1))


def _wide(facts: Mapping[str, Any], columns: tuple[Column, ...]) -> TensorSpec:
    width = facts["features"] or len(columns)
    if not width:
        raise NotValid(
            f"how many features a {facts['class']} takes is not known",
            hint="name them in metadata.columns, or send a reference sample",
        )
    return TensorSpec(INPUT, Datatype.FP64, (VARIABLE, width))


def _output(method: str, answer: Array, rows: int) -> TensorSpec:
    if not answer.ndim or len(answer) != rows:
        raise NotValid(f"{method} answers {rows} rows with the shape {list(answer.shape)}; it must be one row for each")
    datatype = _DATATYPES.get(np.dtype(answer.dtype))
    assert datatype is not None, answer.dtype  # the framing carries no other
    return TensorSpec(OUTPUTS.get(method, OUTPUT), datatype, (VARIABLE, *answer.shape[1:]))


def _target(target: Target, method: str, facts: Mapping[str, Any]) -> Target:
    """Return the target with labels from the model's classes, where its answer is a column for each.

    Raises:
        NotValid: the labels stated are not the classes, in order.
    """
    classes = tuple(facts["classes"])
    if method != "predict_proba" or not classes or target.task not in (Task.BINARY, Task.MULTICLASS):
        return target
    if target.labels and target.labels != classes:
        raise NotValid(f"metadata.target.labels differ from the model's classes, in its order: {', '.join(classes[:20])}")
    if target.task is Task.BINARY and len(classes) != 2:
        raise NotValid(f"the target is binary, and the model has {len(classes)} classes")
    positive = target.positive or (classes[1] if target.task is Task.BINARY else "")
    if positive and positive not in classes:
        raise NotValid(f"metadata.target.positive: {positive!r} is not among the model's classes: {', '.join(classes[:20])}")
    return replace(target, labels=classes, positive=positive)


def _warnings(pickled: Pickled, facts: Mapping[str, Any]) -> list[str]:
    found = [f"not confined: this machine lacks {missing}" for missing in facts["missing"]]
    if not facts["confined"] and not facts["missing"]:
        found.append("not confined: pickled.confinement is off")
    if _CODE_MODULES & {name.partition(":")[0] for name in pickled.imports}:
        found.append("the pickle carries code of its own, whose imports no scan shows")
    return found
