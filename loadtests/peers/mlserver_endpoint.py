"""MLServer: ONNX through a custom runtime class, as documented for libraries without a runtime of their own; pickles by its own.

Answers the Open Inference Protocol by itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtests.peers.asked import BATCH_ROWS_MAX, BATCH_WAIT_S, NAME, Asked, asked, free_port
from loadtests.servers.session import session


class OnnxModel(MLModel):
    """Runs ONNX Runtime."""

    async def load(self) -> bool:
        """Open the session."""
        self._session: Any = session(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request, or several that the batcher has joined."""
        features = NumpyCodec.decode_input(payload.inputs[0])
        (probability,) = self._session.run(["probability"], {"features": features})
        output = NumpyCodec.encode_output("probability", probability)
        return InferenceResponse(model_name=self.name, outputs=[output])


def main(wanted: Asked) -> None:
    """Write the two files that MLServer reads and become `mlserver start`."""
    server = {
        "host": "127.0.0.1",
        "http_port": wanted.port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,  # nobody asks for them, and they count every request
        "parallel_workers": 0,  # inference in the server's process: on one core a second only adds the way there and back
        "debug": False,  # no line a request
    }
    is_onnx = wanted.model.suffix == ".onnx"
    model: dict[str, Any] = {
        "name": NAME,
        "implementation": "loadtests.peers.mlserver_endpoint.OnnxModel" if is_onnx else "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(wanted.model)},
    }
    if wanted.is_batched:
        model |= {"max_batch_size": BATCH_ROWS_MAX, "max_batch_time": BATCH_WAIT_S}
    Path("settings.json").write_text(json.dumps(server))
    Path("model-settings.json").write_text(json.dumps(model))
    os.execvp("mlserver", ["mlserver", "start", "."])


if __name__ == "__main__":
    main(asked())
