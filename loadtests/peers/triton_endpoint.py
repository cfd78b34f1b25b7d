"""Triton's Python wheel: the server in one process, the Python function in another, the Open Inference Protocol in front.

Its dynamic batcher is on for every model, as in all that is documented: it joins what waits and, with no delay set, waits for
nothing.
"""

from __future__ import annotations

import os
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtests.peers.asked import BATCH_ROWS_MAX, FEATURES, NAME, Asked, asked, free_port
from loadtests.servers.session import session


def main(wanted: Asked) -> None:
    """Serve until the process is terminated."""
    # As documented for interpreters that are not the system's: the server's stub must find the library of this one.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    running = session(wanted.model)

    @batch
    def predict(features: np.ndarray) -> list[np.ndarray]:
        return running.run(["probability"], {"features": features})

    ports = TritonConfig(
        http_address="127.0.0.1", http_port=wanted.port, grpc_port=free_port(), metrics_port=free_port(), allow_metrics=False
    )
    with Triton(config=ports) as triton:
        triton.bind(
            model_name=NAME,
            infer_func=predict,
            inputs=[Tensor(name="features", dtype=np.float32, shape=(FEATURES,))],
            outputs=[Tensor(name="probability", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=BATCH_ROWS_MAX, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main(asked())
