"""A pickled version as ONNX: converted in its own process, given the pickle's signature, and accepted only if it agrees.

Both answer the same rows of the reference; one row beyond the stated tolerance refuses the conversion. What is compared is what
would be served: the pickle through its process, the ONNX model through the runtime that serves it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from adapters.runtimes.onnx import OnnxRuntime
from adapters.runtimes.pickles.forkserver import Fork
from adapters.runtimes.pickles.framing import Broken, Late
from adapters.runtimes.pickles.limits import Limits
from adapters.validation.graph import fitted
from adapters.validation.sample import Sample
from adapters.validation.trial import batches_of_sample, on_processor, validated
from gateway.core.errors import NotValid, PredictFailed
from gateway.core.models import Digest, Runtime, Version
from gateway.core.tensors import FLOATS, Array, Datatype
from gateway.ports.runtimes import Instance

FAMILIES: Final = frozenset({"sklearn", "lightgbm", "xgboost"})
HINT: Final = "register it without the conversion, as a pickled version"


def converted(
    fork: Fork, pickle: Instance, found: Version, *, reference: Path | None, conversion: Mapping[str, Any], limits: Limits
) -> Version:
    """Return the ONNX version, whose file lies at `conversion["into"]`.

    Raises:
        NotValid: it cannot be converted, or does not agree.
    """
    assert found.pickled is not None
    assert reference is not None  # control asks for one
    if found.pickled.convertible not in FAMILIES:
        raise NotValid(f"there is no conversion for a {fork.facts['class']}", hint=HINT)
    content = _fitted(_converted(fork, found, limits), found)
    into = Path(conversion["into"])
    into.write_bytes(content)
    stated = replace(
        found,
        runtime=Runtime.ONNX,
        pickled=None,
        warnings=(),
        digest=Digest(hashlib.sha256(content).hexdigest()),
        size_bytes=len(content),
    )
    onnx = validated(into, reference, stated)
    rows, difference = _compared(pickle, OnnxRuntime().load(into, on_processor(onnx)), found, Sample(reference), conversion)
    origin = {
        "digest": found.digest,
        "class": fork.facts["class"],
        "library": found.runtime_version,
        "imports": list(found.pickled.imports),
        "rows": rows,
        "difference_max": difference,
        "atol": conversion["atol"],
        "rtol": conversion["rtol"],
        "cost_us_per_row": found.cost_us_per_row,
        "speed_up": round(found.cost_us_per_row / max(onnx.cost_us_per_row, 0.1), 1),
    }
    return replace(onnx, lineage={**found.lineage, "converted_from": origin})


def _converted(fork: Fork, found: Version, limits: Limits) -> bytes:
    assert found.pickled is not None
    inputs = [(spec.name, spec.shape[1], spec.datatype is Datatype.BYTES) for spec in found.signature.inputs]
    order = {"family": found.pickled.convertible, "inputs": inputs}
    try:
        return fork.convert(order, time.monotonic() + limits.load_timeout_s)
    except PredictFailed as error:
        is_absent = "ModuleNotFoundError" in error.message
        hint = "install headgate[convert] in the model's environment" if is_absent else HINT
        raise NotValid(f"the conversion failed: {error.message}", hint=hint) from error
    except (Late, Broken) as error:
        raise NotValid(f"the conversion did not end within {limits.load_timeout_s:g} s", hint=HINT) from error


def _fitted(content: bytes, found: Version) -> bytes:
    assert found.pickled is not None
    return fitted(content, found.signature, output_at=1 if found.pickled.method == "predict_proba" else 0)


def _compared(
    pickle: Instance, onnx: Instance, version: Version, sample: Sample, conversion: Mapping[str, Any]
) -> tuple[int, float]:
    """Return how many rows were compared and the largest difference.

    Raises:
        NotValid: a row differs by more than is allowed.
    """
    spec = version.signature.outputs[0]
    rows, odd, largest = 0, 0, 0.0
    for batch in batches_of_sample(version.signature, version.columns, sample):
        ours, theirs = pickle.predict(batch)[spec.name], onnx.predict(batch)[spec.name]
        rows += len(ours)
        if spec.datatype in FLOATS:
            a, b = theirs.astype(np.float64), ours.astype(np.float64)
            largest = max(largest, float(np.abs(a - b).max(initial=0.0)))
            is_close = np.isclose(a, b, rtol=conversion["rtol"], atol=conversion["atol"], equal_nan=True)
        else:
            is_close = np.asarray(theirs == ours)
        odd += int((~_by_row(is_close)).sum())
    if odd:
        raise NotValid(
            f"the conversion does not agree with the pickle on {odd} of {rows} rows of the reference, by up to {largest:.3g}; "
            f"allowed is {conversion['atol']:g} + {conversion['rtol']:g} of the answer",
            hint=HINT,
        )
    return rows, largest


def _by_row(is_close: Array) -> Any:
    return is_close.reshape(len(is_close), -1).all(axis=1)
