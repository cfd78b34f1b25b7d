"""A version in the form of Triton's model configuration, which is what the protocol's extension shows.

The leading dimension that counts rows stands in no `dims`. What is a route's, such as its split, has no place in that form.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.core.fields import Json
from gateway.core.models import Version
from gateway.core.tensors import Datatype, TensorSpec, element_bytes

_JSON_BYTES: Final = 2  # of an element at least: a digit and a comma
_INT32_MAX: Final = 2**31 - 1  # of the message's field
_GPUS: Final = frozenset({"cuda", "tensorrt"})


def configuration(name: str, version: Version, *, batch_rows_max: int, body_bytes_max: int, provider: str) -> Json:
    """Return a version's configuration under the name that it was asked by.

    Args:
        provider: What it runs on here, or would where all it names is there.
        batch_rows_max: Rows that one run joins where the version sets no bound; a request may hold more, and then runs alone.
        body_bytes_max: Of a request, which is what bounds its rows.
    """
    has_rows = version.signature.is_batched
    parameters = {
        "version": {"string_value": version.version},
        "digest": {"string_value": version.digest},
        "provider": {"string_value": provider},
        "runtime_version": {"string_value": version.runtime_version},
    }
    found: Json = {
        "name": name,
        "platform": platform(version),
        "backend": version.runtime.value,
        "max_batch_size": _rows_within(version, body_bytes_max) if has_rows else 0,
        "input": [_configured(spec, has_rows) for spec in version.signature.inputs],
        "output": [_configured(spec, has_rows) for spec in version.signature.outputs],
        "instance_group": [{"name": name, "kind": "KIND_GPU" if _GPUS & set(provider.split(" + ")) else "KIND_CPU", "count": 1}],
        "parameters": parameters,
    }
    if has_rows and version.is_joinable:
        found["dynamic_batching"] = {"max_queue_delay_microseconds": int(version.batching.delay_ms * 1000)}
        parameters["batch_rows_max"] = {"string_value": str(version.batching.rows_max or batch_rows_max)}
    return found


def platform(version: Version) -> str:
    """Return what a version runs on, `<project>_<format>` as the protocol has it."""
    return f"headgate_{version.runtime.value}"


def _rows_within(version: Version, body_bytes_max: int) -> int:
    """Return how many rows a request may have: by the version's bound, or as the largest body can hold in whichever form."""
    held = min(body_bytes_max // sum(map(_row_bytes, version.signature.inputs)), _INT32_MAX)
    return min(held, version.batching.rows_max or held)


def _row_bytes(spec: TensorSpec) -> int:
    least = _JSON_BYTES if spec.datatype is Datatype.BYTES else min(element_bytes(spec.datatype), _JSON_BYTES)
    return least * math.prod(max(size, 1) for size in spec.shape[1:])


def _configured(spec: TensorSpec, has_rows: bool) -> Json:
    kind = "STRING" if spec.datatype is Datatype.BYTES else spec.datatype.value
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape[1:] if has_rows else spec.shape)}
