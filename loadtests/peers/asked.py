"""What an endpoint of a peer is asked for on its command line. Runs in the peer's environment: the standard library alone.

Every endpoint is a module that is called as `python -m loadtests.peers.<peer>_endpoint MODEL PORT [--batched]` in an empty
directory of its own, writes there what its server wants to find, and becomes that server.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path

NAME = "small"  # every model's, so that a path is the same whatever is behind it
INFER = f"/v2/models/{NAME}/infer"
FEATURES = 20
BATCH_ROWS_MAX = 64  # as many as there are callers, and the gateway's own default
BATCH_WAIT_S = 0.01  # for a batch to fill, where a server asks for it; a little over one run of the model that is batched


@dataclass(frozen=True, slots=True)
class Asked:
    """The model's file, the port to answer on, and whether to join requests into batches."""

    model: Path
    port: int
    is_batched: bool


def asked() -> Asked:
    """Read the command line."""
    model, port, *rest = sys.argv[1:]
    return Asked(Path(model), int(port), rest == ["--batched"])


def free_port() -> int:
    """Return a port of the loopback that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
