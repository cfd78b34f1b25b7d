"""What computes an ONNX version: the processor, or an accelerator that ONNX Runtime calls an execution provider.

A provider bears ONNX Runtime's name without its ending and in lower case, `CUDAExecutionProvider` being `cuda`. A version names
those it may run on, the best first; which of them are there is for each machine's own ONNX Runtime to say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from gateway.core.errors import MalformedRequest, NotValid
from gateway.core.fields import Fields

CPU: Final = "cpu"  # always there
PROVIDERS_MAX: Final = 8  # of a version; no build of ONNX Runtime has more
_NAME: Final = re.compile(r"[a-z0-9_]{1,40}")


def providers_from_body(fields: Fields, where: str) -> tuple[str, ...]:
    """Read the field `providers`, the best first; without it the processor alone is meant, and nothing is returned.

    Raises:
        MalformedRequest: one is no name of a provider, or stands there twice.
    """
    named = fields.items("providers", PROVIDERS_MAX, ())
    for at, name in enumerate(named):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise MalformedRequest(f"{where}.providers[{at}]: expected a provider's name in lower case, such as cpu or cuda")
        if name in named[:at]:
            raise MalformedRequest(f"{where}.providers[{at}]: {name} stands there twice")
    return tuple(str(name) for name in named)


def refuse_absent(named: Sequence[str], present: Collection[str]) -> None:
    """Refuse a provider that is not there.

    Raises:
        NotValid: with those that are.
    """
    for name in named:
        if name not in present:
            raise NotValid(
                f"the execution provider {name!r} is not in this gateway's ONNX Runtime, which has {', '.join(sorted(present))}",
                hint="name one of these, or install a build of ONNX Runtime that has it",
            )
