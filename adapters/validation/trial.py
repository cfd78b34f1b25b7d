"""The trial of a version: does it load, do its columns fit, does it answer sensibly on the reference, what does a row cost.

Runs in the validation process, on files that may be hostile; every finding is one sentence that names what is wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from adapters.runtimes.onnx import OnnxRuntime, providers
from adapters.validation.graph import read_signature
from adapters.validation.sample import Sample
from gateway.core.errors import ModelFault, NotValid
from gateway.core.models import Column, ColumnKind, Target, Task, Version
from gateway.core.profile_bodies import profile_body
from gateway.core.profiles import build_profile
from gateway.core.providers import refuse_absent
from gateway.core.tensors import FLOATS, HALVES, NUMPY_DTYPES, VARIABLE, Array, Datatype, Signature, TensorSpec
from gateway.ports.runtimes import Instance

TRIAL_ROWS_MAX: Final = 2_000  # of the reference that are run; enough to meet what a column holds
BATCH_ROWS: Final = 64  # as serving batches by default
COST_RUNS: Final = 51  # of one row; the median is then known to a few percent
COST_BUDGET_S: Final = 2.0  # whatever the model costs
VARIED_ROWS: Final = 8  # any two rows that depend on each other show it
JOIN_ROUNDING: Final = 1e-4  # of the largest answer: FP32 sums in another order differ by less, through some hundred layers too
JOIN_ROUNDING_HALVES: Final = {Datatype.FP16: 1e-2, Datatype.BF16: 1e-1}  # whose numbers have three digits, and two
ROUNDING: Final = 1e-6  # by which a probability in FP32 may leave [0, 1]
MADE_UP_SIZE: Final = 1  # of a variable dimension that is not the row count, when nothing says more

Inputs = dict[str, Array]


def validated(artifact: Path, reference: Path | None, version: Version) -> Version:
    """Return `version` with everything filled in that the artifact and the reference say.

    It is tried on the processor whatever it may run on: an accelerator takes more address space than there is here. Whether one
    takes the version shows when workers warm it, before anything is changed.

    Raises:
        NotValid: with the reason.
    """
    refuse_absent(version.providers, providers())
    signature = read_signature(artifact)
    target = checked_target(version.target, signature)
    stated = replace(version, signature=signature, target=target)
    try:
        return tried(OnnxRuntime().load(artifact, on_processor(stated)), stated, None if reference is None else Sample(reference))
    except ModelFault as error:
        raise does_not_run(error, reference) from error


def tried(instance: Instance, stated: Version, sample: Sample | None) -> Version:
    """Return a version with signature and target after running it on the sample: columns, profile, cost, warnings.

    Raises:
        NotValid: with the reason.
        ModelFault: it does not run.
    """
    signature, target = stated.signature, stated.target
    _refuse_unknown_tensors(stated, signature)
    columns = _checked_columns(stated.columns, signature, sample)
    values = None if sample is None else sample.read(_columns_read(columns, signature))
    rows = _rows_of(signature, columns, values)
    most = stated.batching.rows_max or BATCH_ROWS
    outputs = _run(instance, signature, rows, most)
    cost_us = _cost_us(instance, _least(signature, rows))
    is_joinable = not signature.is_batched or _answers_alike(instance, signature, rows, most, has_reference=values is not None)
    _refuse_odd_answers(target, outputs)
    warnings = _warnings(signature, outputs, has_reference=values is not None, is_joinable=is_joinable)
    return replace(
        stated,
        columns=columns,
        profile=None if values is None or not columns else profile_body(build_profile(columns, values)),
        runtime_version=instance.runtime_version,
        cost_us_per_row=cost_us,
        warnings=(*stated.warnings, *warnings),
        is_joinable=is_joinable,
    )


def on_processor(version: Version) -> Version:
    """Return a version as it is tried."""
    return replace(version, providers=())


def does_not_run(error: ModelFault, reference: Path | None) -> NotValid:
    """Return what to raise for a version that fails its trial."""
    return NotValid(f"the model does not run: {error.message}", hint=_hint(reference))


def _hint(reference: Path | None) -> str | None:
    if reference is not None:
        return None
    return "it was run on made-up rows of zeros; send a reference sample, and it is run on that"


def _is_wide(signature: Signature) -> bool:
    """Whether all features come as the columns of one tensor."""
    return len(signature.inputs) == 1 and len(signature.inputs[0].shape) == 2 and signature.inputs[0].shape[1] != 1


def _is_named(signature: Signature) -> bool:
    """Whether each feature comes as an input of its own, of shape [n] or [n, 1]."""
    return all(len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1) for spec in signature.inputs)


def _refuse_unknown_tensors(stated: Version, signature: Signature) -> None:
    known = {spec.name for spec in (*signature.inputs, *signature.outputs)}
    unknown = [summary.tensor for summary in stated.summaries if summary.tensor not in known]
    if unknown:
        raise NotValid(f"metadata.summaries: no tensor is called {unknown[0]!r}; there are {', '.join(sorted(known))}")


def _checked_columns(stated: Sequence[Column], signature: Signature, sample: Sample | None) -> tuple[Column, ...]:
    """Return the columns in the order of the wide tensor or of the named inputs, each with its kind.

    Raises:
        NotValid: they do not fit the inputs.
    """
    if _is_named(signature):
        return _named_columns(stated, signature)
    if not _is_wide(signature):
        if stated or sample is not None:
            shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in signature.inputs)
            raise NotValid(
                f"columns and a reference belong to one wide input [n, columns] or to inputs [n, 1]; these are {shapes}"
            )
        return ()
    spec = signature.inputs[0]
    columns = tuple(stated) or tuple(Column(name) for name in (sample.columns if sample is not None else ()))
    if columns and spec.shape[1] not in (VARIABLE, len(columns)):
        said = "metadata.columns names" if stated else "metadata.columns is missing, and the reference has"
        raise NotValid(f"input {spec.name!r} takes {spec.shape[1]} columns, but {said} {len(columns)}")
    return tuple(_with_kind(column, spec.datatype) for column in columns)


def _named_columns(stated: Sequence[Column], signature: Signature) -> tuple[Column, ...]:
    given = {column.name: column for column in stated}
    names = [spec.name for spec in signature.inputs]
    if given and set(given) != set(names):
        odd = sorted(set(given) ^ set(names))
        raise NotValid(
            f"metadata.columns and the model's inputs differ in {', '.join(map(repr, odd[:10]))}",
            hint="each input is a column here",
        )
    return tuple(_with_kind(given.get(spec.name, Column(spec.name)), spec.datatype) for spec in signature.inputs)


def _with_kind(column: Column, datatype: Datatype) -> Column:
    """Return the column, categorical when its values are text."""
    return replace(column, kind=ColumnKind.CATEGORICAL) if datatype is Datatype.BYTES else column


def _columns_read(columns: Sequence[Column], signature: Signature) -> list[tuple[str, Datatype]]:
    if _is_named(signature):
        return [(spec.name, spec.datatype) for spec in signature.inputs]
    return [(column.name, signature.inputs[0].datatype) for column in columns]


def _rows_of(signature: Signature, columns: Sequence[Column], values: Mapping[str, Array] | None) -> Inputs:
    """Return the rows of the trial as the model's inputs: of the reference, or made up."""
    if values is None:
        return {spec.name: _made_up(spec) for spec in signature.inputs}
    if _is_named(signature):
        return {spec.name: values[spec.name][:TRIAL_ROWS_MAX].reshape(-1, *spec.shape[1:]) for spec in signature.inputs}
    wide = np.column_stack([values[column.name][:TRIAL_ROWS_MAX] for column in columns])
    return {signature.inputs[0].name: np.ascontiguousarray(wide)}


def rows_of_sample(signature: Signature, columns: Sequence[Column], sample: Sample | None) -> Inputs:
    """Return one batch of rows: of the sample, or made up; the signature needs no outputs."""
    values = None if sample is None else sample.read(_columns_read(columns, signature))
    return {name: np.ascontiguousarray(data[:BATCH_ROWS]) for name, data in _rows_of(signature, columns, values).items()}


def batches_of_sample(signature: Signature, columns: Sequence[Column], sample: Sample) -> Iterator[Inputs]:
    """Yield the rows of the sample that a trial runs, batch by batch."""
    return _batches(signature, _rows_of(signature, columns, sample.read(_columns_read(columns, signature))))


def _made_up(spec: TensorSpec) -> Array:
    shape = tuple((3 if at == 0 else MADE_UP_SIZE) if size == VARIABLE else size for at, size in enumerate(spec.shape))
    return np.full(shape, b"", np.object_) if spec.datatype is Datatype.BYTES else np.zeros(shape, NUMPY_DTYPES[spec.datatype])


def _run(instance: Instance, signature: Signature, rows: Inputs, most: int) -> dict[str, Array]:
    """Return every output over all rows, after checking each answer against the signature.

    Args:
        most: Rows of a run.

    Raises:
        NotValid: an answer has another type or shape, or is NaN or infinite where the row was finite.
    """
    answers = [_checked(signature, batch, instance.predict(batch)) for batch in _batches(signature, rows, most)]
    return {spec.name: np.concatenate([np.atleast_1d(answer[spec.name]) for answer in answers]) for spec in signature.outputs}


def _batches(signature: Signature, rows: Inputs, most: int = BATCH_ROWS) -> Iterator[Inputs]:
    count = min(len(data) for data in rows.values()) if all(data.ndim for data in rows.values()) else 0
    heights = {spec.shape[0] for spec in signature.inputs if spec.shape}
    if count == 0 or len(heights) != 1:
        yield rows
        return
    height = heights.pop()
    step = min(BATCH_ROWS, most) if height == VARIABLE else height
    if count < step and height != VARIABLE:
        raise NotValid(f"the model takes {height} rows at once, and the reference has {count}")
    for first in range(0, count - (0 if height == VARIABLE else step - 1), step):
        yield {name: np.ascontiguousarray(data[first : first + step]) for name, data in rows.items()}


def _checked(signature: Signature, inputs: Inputs, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
    is_clean = all(bool(np.isfinite(data).all()) for data in inputs.values() if data.dtype.kind == "f")
    count = len(next(iter(inputs.values()))) if signature.is_batched else 0
    for spec in signature.outputs:
        data = outputs[spec.name]
        if data.dtype != NUMPY_DTYPES[spec.datatype]:
            raise NotValid(f"output {spec.name!r} is declared {spec.datatype.value} and came as {data.dtype}")
        if not spec.accepts(data.shape):
            raise NotValid(f"output {spec.name!r} is declared {list(spec.shape)} and came as {list(data.shape)}")
        if signature.is_batched and len(data) != count:
            raise NotValid(f"output {spec.name!r} has {len(data)} rows for {count} rows in")
        if is_clean and spec.datatype in FLOATS and not np.isfinite(data).all():
            raise NotValid(f"output {spec.name!r} is NaN or infinite on rows that are neither")
    return outputs


def _least(signature: Signature, rows: Inputs) -> Inputs:
    """Return what a request holds at least: a row, or everything where rows are not counted."""
    if not signature.is_batched:
        return next(_batches(signature, rows))
    return {name: np.ascontiguousarray(data[:1]) for name, data in rows.items()}


def _cost_us(instance: Instance, row: Inputs) -> float:
    """Return the median time of one row, in µs, after a first run that is not counted."""
    instance.predict(row)
    spent: list[float] = []
    end_s = time.perf_counter() + COST_BUDGET_S
    while len(spent) < COST_RUNS and (not spent or time.perf_counter() < end_s):
        began_s = time.perf_counter()
        instance.predict(row)
        spent.append((time.perf_counter() - began_s) * 1e6)
    return round(median(spent), 1)


def _answers_alike(instance: Instance, signature: Signature, rows: Inputs, most: int, *, has_reference: bool) -> bool:
    """Return whether rows are answered alike alone and in a batch, but for rounding.

    Rows that are all the same would hide that answers depend on one another, so that without a reference others are made up; a
    model that takes no such values shows nothing.
    """
    chosen = _spread(rows) if has_reference and len(next(iter(rows.values()))) > 1 else _varied(signature)
    batch = {name: data[:most] for name, data in chosen.items()}
    try:
        together = instance.predict(batch)
        end_s = time.perf_counter() + COST_BUDGET_S
        for at in range(len(next(iter(batch.values())))):
            alone = instance.predict({name: np.ascontiguousarray(data[at : at + 1]) for name, data in batch.items()})
            if not all(_is_alike(together[spec.name], at, alone[spec.name], spec.datatype) for spec in signature.outputs):
                return False
            if time.perf_counter() > end_s:
                break
    except ModelFault:
        if has_reference:
            raise
    return True


def _spread(rows: Inputs) -> Inputs:
    """Return rows of one batch from all over the reference, which may be sorted."""
    count = len(next(iter(rows.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(count, BATCH_ROWS)).astype(np.int64))
    return {name: np.ascontiguousarray(data[chosen]) for name, data in rows.items()}


def _varied(signature: Signature) -> Inputs:
    """Return made-up rows that differ; floats in [0, 1), integers 0 or 1, which an index or a code may be."""
    made = {spec.name: _made_up(replace(spec, shape=(VARIED_ROWS, *spec.shape[1:]))) for spec in signature.inputs}
    numbers = np.random.default_rng(1)
    for name, data in made.items():
        if data.dtype.kind != "O":
            high = 1.0 if data.dtype.kind == "f" else 2.0
            made[name] = (numbers.random(data.shape) * high).astype(data.dtype)
    return made


def _is_alike(together: Array, at: int, alone: Array, datatype: Datatype) -> bool:
    if at >= len(together) or alone.shape != (1, *together.shape[1:]):
        return False
    if datatype not in FLOATS:
        return bool(np.array_equal(together[at], alone[0]))
    of_batch, of_one = together[at].astype(np.float64), alone[0].astype(np.float64)
    sizes = np.abs(together.astype(np.float64))
    tolerance = JOIN_ROUNDING_HALVES.get(datatype, JOIN_ROUNDING)
    bound = tolerance * float(sizes[np.isfinite(sizes)].max(initial=0.0))
    return bool(np.isclose(of_batch, of_one, rtol=tolerance, atol=bound, equal_nan=True).all())


def checked_target(target: Target, signature: Signature) -> Target:
    """Return the target with its output named.

    Raises:
        NotValid: there is no such output, or it is not said which of several it is.
    """
    if target.task is Task.OTHER and not target.output:
        return target
    names = [spec.name for spec in signature.outputs]
    if not target.output and len(names) > 1:
        raise NotValid(f"metadata.target.output is missing: the model has the outputs {', '.join(names)}")
    output = target.output or names[0]
    if output not in names:
        raise NotValid(f"metadata.target.output: there is no output {output!r}; the model has {', '.join(names)}")
    spec = next(spec for spec in signature.outputs if spec.name == output)
    width = spec.shape[-1] if len(spec.shape) > 1 else 1
    labels = len(target.labels)
    if spec.datatype in FLOATS and target.task is Task.MULTICLASS and labels and width not in (VARIABLE, labels):
        raise NotValid(f"metadata.target.labels has {labels} labels, but output {output!r} has {width} columns")
    return replace(target, output=output)


def _refuse_odd_answers(target: Target, outputs: Mapping[str, Array]) -> None:
    """Refuse a binary or multiclass target whose float answers are no probabilities."""
    if target.task not in (Task.BINARY, Task.MULTICLASS):
        return
    data = outputs[target.output]
    if data.dtype.kind != "f":
        return
    known = data.astype(np.float64)
    known = known[~np.isnan(known)]
    if known.size and not (known.min() >= -ROUNDING and known.max() <= 1 + ROUNDING):
        low, high = known.min(), known.max()
        raise NotValid(
            f"output {target.output!r} should hold probabilities and lies between {low:.4g} and {high:.4g}",
            hint="export the probabilities, or declare the task regression or other",
        )


def _warnings(signature: Signature, outputs: Mapping[str, Array], *, has_reference: bool, is_joinable: bool) -> Iterator[str]:
    if not is_joinable:
        yield "rows are answered differently alone and in a batch: requests are not joined into one run"
    if half := [spec for spec in signature.inputs if spec.datatype in HALVES]:
        kind = half[0].datatype.value
        yield f"input {half[0].name!r} is {kind}, which has no JSON form: requests must send it as a binary tensor"
    if half := [spec for spec in signature.outputs if spec.datatype in HALVES]:
        kind = half[0].datatype.value
        yield f"output {half[0].name!r} is {kind}, which has no JSON form: requests must ask for it as binary or leave it out"
    if not has_reference:
        yield "no reference sample was sent: drift against training cannot be seen"
        return
    if not signature.is_batched:
        yield "the model has a fixed number of rows: requests cannot be joined into one run"
    for name, data in outputs.items():
        if len(data) > 1 and bool(np.all(data == data[0])) and math.prod(data.shape[1:]):
            yield f"output {name!r} is the same on every row of the reference"
