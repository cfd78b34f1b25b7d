"""BentoML: a service with one method that takes and returns an array, the form that its documentation begins with.

Callers send nested lists under the argument's name and get nested lists.
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import numpy as np

from loadtests.peers.asked import BATCH_ROWS_MAX, INFER, Asked, asked
from loadtests.servers.session import session

MODEL, IS_BATCHED = "PEER_MODEL", "PEER_IS_BATCHED"  # the service is imported by name, so it is told by the environment
LATENCY_MS_MAX = 1_000  # its batcher refuses what it expects to take longer; 64 callers of the batched model wait 0.1 s


@bentoml.service(workers=1, resources={"cpu": "1"}, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Small:
    """One worker; without a line or a metric a request, which nobody would read here."""

    def __init__(self) -> None:
        self._session = session(Path(os.environ[MODEL]))

    @bentoml.api(
        route=INFER, batchable=bool(os.environ.get(IS_BATCHED)), max_batch_size=BATCH_ROWS_MAX, max_latency_ms=LATENCY_MS_MAX
    )
    def predict(self, features: np.ndarray) -> np.ndarray:
        """Answer one request, or several that the batcher has joined."""
        (probability,) = self._session.run(["probability"], {"features": features.astype(np.float32)})
        return probability


def main(wanted: Asked) -> None:
    """Become `bentoml serve`."""
    os.environ |= {MODEL: str(wanted.model), IS_BATCHED: "yes" if wanted.is_batched else "", "BENTOML_DO_NOT_TRACK": "True"}
    service = f"{__spec__.name}:{Small.name}"
    os.execvp("bentoml", ["bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(wanted.port)])


if __name__ == "__main__":
    main(asked())
