"""One logged prediction run again, in the validation process: the artifact is loaded, answers, and is compared to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.logs.codec import record_from_body
from adapters.runtimes.chained import loaded
from adapters.runtimes.onnx import OnnxRuntime
from adapters.validation.pickled import pickled_runtime
from gateway.core.errors import NotValid
from gateway.core.fields import Json
from gateway.core.models import Runtime as RuntimeName
from gateway.core.models import Version
from gateway.core.recompute import difference, joined, own_rows
from gateway.core.records import PredictionRecord
from gateway.ports.runtimes import Instance, Runtime


def recomputed(
    artifact: Path,
    version: Version,
    prediction: Json,
    members: Sequence[tuple[Version, Path]],
    pickles: Mapping[str, Any] | None,
) -> Json:
    """Return the runtime's version now and how each output differs.

    Args:
        members: Of a chain, each with its artifact; empty for another version.
        pickles: `limits`, `interpreter`, `interpreters`; None for a version that is no pickle.

    Raises:
        ModelFault: it does not load or run.
    """
    record = record_from_body(prediction)
    if not isinstance(record, PredictionRecord):
        raise NotValid("only a prediction can be computed again")
    instance = _loaded(artifact, version, members, pickles)
    try:
        found = own_rows(instance.predict(joined([record])), record, is_batched=version.signature.is_batched)
        outputs = [difference(output, found.get(output.name)).body() for output in record.outputs]
        return {"runtime_version": instance.runtime_version, "outputs": outputs}
    finally:
        instance.close()


def _loaded(
    artifact: Path, version: Version, members: Sequence[tuple[Version, Path]], pickles: Mapping[str, Any] | None
) -> Instance:
    runtimes: dict[RuntimeName, Runtime] = {RuntimeName.ONNX: OnnxRuntime()}
    if pickles is not None:
        runtimes[RuntimeName.PICKLED] = pickled_runtime(pickles)
    return loaded(members, runtimes) if members else runtimes[version.runtime].load(artifact, version)
