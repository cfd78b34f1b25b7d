"""Ray Serve: one deployment with one replica behind its HTTP proxy, on a cluster of this machine alone."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

from loadtests.peers.asked import BATCH_ROWS_MAX, BATCH_WAIT_S, INFER, Asked, asked
from loadtests.servers.session import session

HELD_S_MAX = 600.0  # all its processes are stopped while others are measured, which is not to be taken for their death


class Endpoint:
    """Takes a row apart, runs ONNX Runtime, and puts an answer together."""

    def __init__(self, wanted: Asked) -> None:
        self._session = session(wanted.model)
        self._predict = self._joined if wanted.is_batched else self._alone

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one request."""
        tensor = (await request.json())["inputs"][0]
        probability = await self._predict(np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"]))
        data = probability.ravel().tolist()
        return {"outputs": [{"name": "probability", "shape": probability.shape, "datatype": "FP32", "data": data}]}

    async def _alone(self, features: np.ndarray) -> np.ndarray:
        (probability,) = self._session.run(["probability"], {"features": features})
        return probability

    @serve.batch(max_batch_size=BATCH_ROWS_MAX, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _joined(self, features: list[np.ndarray]) -> list[np.ndarray]:
        (probability,) = self._session.run(["probability"], {"features": np.concatenate(features)})
        return list(probability[:, None])


def main(wanted: Asked) -> None:
    """Serve until the process is terminated."""
    # Proxy, controller and replica ask for a processor each to be placed; they all share the one core that they are pinned to.
    patience = {"health_check_timeout_ms": int(HELD_S_MAX * 1e3)}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _system_config=patience)
    serve.start(http_options={"host": "127.0.0.1", "port": wanted.port})
    deployment = serve.deployment(
        Endpoint,
        num_replicas=1,
        max_ongoing_requests=2 * BATCH_ROWS_MAX,  # above the batch, as documented: by default 5 requests reach a replica at once
        logging_config=LoggingConfig(enable_access_log=False),
        health_check_timeout_s=HELD_S_MAX,
    )
    serve.run(deployment.bind(wanted), route_prefix=INFER)
    signal.signal(signal.SIGTERM, lambda *_: ray.shutdown())
    signal.pause()


if __name__ == "__main__":
    main(asked())
