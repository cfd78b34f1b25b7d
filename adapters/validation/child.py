"""The validation process: one order on standard input, one line of JSON on standard output.

It gives up what it could do harm with before it opens the artifact: address space, processor time, files it could write, core
dumps. It imports what loads and runs models only after that, so that the bounds hold for those too.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.core.errors import GatewayError
from gateway.core.fields import Json
from gateway.core.models import Runtime, Version
from gateway.core.version_bodies import version_body, version_from_body

REASON_LENGTH_MAX: Final = 1_000  # characters of a library's message; some print the whole graph
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    """Read the order, validate, answer."""
    order = json.loads(sys.stdin.buffer.read())
    written = order["pickles"]["limits"]["message_bytes_max"] if order["conversion"] else 0
    give_up(memory_bytes=order["memory_bytes"], timeout_s=order["timeout_s"], file_bytes_max=written)
    print(json.dumps(answer_to(order)))  # noqa: T201  # the answer


def give_up(*, memory_bytes: int, timeout_s: float, file_bytes_max: int = 0) -> None:
    """Lower this process's own limits, for good; a conversion alone writes a file."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    seconds = math.ceil(timeout_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))  # pipes are not files: the answer still leaves
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)  # serving goes first


def answer_to(order: Mapping[str, Any]) -> Json:
    """Return `{"version": …}`, what `recomputed` found, or `{"error": …, "hint": …}`."""
    artifact = Path(order["artifact"])
    reference = None if order["reference"] is None else Path(order["reference"])
    stated = version_from_body(order["version"])
    try:
        if order["prediction"] is not None:
            from adapters.validation.again import recomputed

            return recomputed(artifact, stated, order["prediction"], _before(order), order["pickles"])
        version = _validated(artifact, reference, stated, order)
    except GatewayError as error:
        return {"error": _without_paths(error.message, order)[:REASON_LENGTH_MAX], "hint": error.hint}
    except MemoryError:
        return {"error": f"validation needs more than its {order['memory_bytes'] / 2**30:.1f} GiB of memory", "hint": None}
    return {"version": version_body(version)}


def _validated(artifact: Path, reference: Path | None, stated: Version, order: Mapping[str, Any]) -> Version:
    if order["before"]:
        from adapters.validation.chain import validated_chain

        return validated_chain(artifact, reference, stated, _before(order), order["pickles"])
    if stated.runtime is not Runtime.PICKLED:
        from adapters.validation.trial import validated

        return validated(artifact, reference, stated)
    from adapters.validation.pickled import validated_pickle

    return validated_pickle(artifact, reference, stated, order["pickles"], order["conversion"])


def _before(order: Mapping[str, Any]) -> list[tuple[Version, Path]]:
    """Return the members of a chain that the order names, each with its artifact."""
    return [(version_from_body(member["version"]), Path(member["artifact"])) for member in order["before"]]


def _without_paths(message: str, order: Mapping[str, Any]) -> str:
    """Return a library's message with the files named as their sender knows them, not by where they lie."""
    for part in ("artifact", "reference"):
        if order[part] is not None:
            message = message.replace(str(order[part]), f"the {part}")
    for member in order["before"]:
        message = message.replace(member["artifact"], "its artifact")
    return message


if __name__ == "__main__":
    main()
