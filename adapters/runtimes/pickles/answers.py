"""A model's answer as the output that was registered, or a fault: never another number."""

from __future__ import annotations

import numpy as np

from gateway.core.errors import OutputMismatch
from gateway.core.tensors import NUMPY_DTYPES, Array, TensorSpec


def registered(answer: Array, spec: TensorSpec) -> Array:
    """Return an answer with the datatype of its output; floating-point numbers may lose digits, whole numbers nothing.

    Raises:
        OutputMismatch: it is of another kind, or a number does not fit.
    """
    wanted = NUMPY_DTYPES[spec.datatype]
    if answer.dtype == wanted:
        return answer
    found: Array | None = answer.astype(wanted) if np.can_cast(answer.dtype, wanted, "same_kind") else None
    if found is None or (wanted.kind in "iu" and not np.array_equal(found, answer)):
        raise OutputMismatch(f"output {spec.name!r} is {answer.dtype}, and {spec.datatype.value} was registered")
    return found
