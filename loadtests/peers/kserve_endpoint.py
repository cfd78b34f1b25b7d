"""KServe's Python server: a model class behind the Open Inference Protocol. Its batcher is not in it but in an agent, in Go."""

from __future__ import annotations

import logging

import kserve
from kserve.utils.utils import generate_uuid

from loadtests.peers.asked import NAME, Asked, asked
from loadtests.servers.session import session


class OnnxModel(kserve.Model):
    """Runs ONNX Runtime."""

    def __init__(self, wanted: Asked) -> None:
        super().__init__(NAME)
        self._session = session(wanted.model)
        self.ready = True

    async def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        """Answer one request; on the event loop, which on one core is the shortest way."""
        del headers, response_headers
        (probability,) = self._session.run(["probability"], {"features": payload.inputs[0].as_numpy()})
        output = kserve.InferOutput("probability", list(probability.shape), "FP32")
        output.set_data_from_numpy(probability, binary_data=False)
        return kserve.InferResponse(payload.id or generate_uuid(), self.name, [output])


def main(wanted: Asked) -> None:
    """Serve over HTTP alone, without a line a request."""
    server = kserve.ModelServer(http_port=wanted.port, workers=1, enable_grpc=False, enable_latency_logging=False)
    for name in ("kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.start([OnnxModel(wanted)])


if __name__ == "__main__":
    main(asked())
