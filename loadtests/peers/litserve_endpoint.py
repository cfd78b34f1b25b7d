"""LitServe: an API class with its four steps; the server in one process, the model in another, as it always has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litserve
import numpy as np

from loadtests.peers.asked import BATCH_ROWS_MAX, BATCH_WAIT_S, INFER, Asked, asked
from loadtests.servers.session import session


class OnnxApi(litserve.LitAPI):
    """Takes a row apart, runs ONNX Runtime, and puts an answer together."""

    def __init__(self, model: Path, **options: Any) -> None:
        super().__init__(api_path=INFER, **options)
        self._model = model

    def setup(self, device: str) -> None:
        """Open the session, in the process that runs it."""
        del device
        self._session = session(self._model)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation here declares a schema
        """Return the rows of a request."""
        tensor = request["inputs"][0]
        return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Join requests of one row."""
        return np.concatenate(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Answer one request, or several that were joined."""
        (probability,) = self._session.run(["probability"], {"features": x})
        return probability

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Take the answers of joined requests apart."""
        return list(output[:, None])

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """Return an answer."""
        return {"outputs": [{"name": "probability", "shape": output.shape, "datatype": "FP32", "data": output.ravel().tolist()}]}


def main(wanted: Asked) -> None:
    """Serve."""
    options = {"max_batch_size": BATCH_ROWS_MAX, "batch_timeout": BATCH_WAIT_S} if wanted.is_batched else {}
    server = litserve.LitServer(
        OnnxApi(wanted.model, **options),
        accelerator="cpu",
        devices=1,
        workers_per_device=1,
        fast_queue=True,  # documented for high loads: ZeroMQ between the two processes
    )
    server.run(
        host="127.0.0.1", port=wanted.port, num_api_servers=1, log_level="warning", access_log=False, generate_client_file=False
    )


if __name__ == "__main__":
    main(asked())
