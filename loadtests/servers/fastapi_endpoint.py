"""The same endpoint in FastAPI, with typed bodies and a plain function, as its tutorial shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from loadtests.servers.serve import serve
from loadtests.servers.session import session


class TensorIn(BaseModel):
    """An input as the protocol sends it."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferIn(BaseModel):
    """A request."""

    inputs: list[TensorIn]


def build(model: Path) -> Any:
    """Return the application."""
    running = session(model)
    app = FastAPI()

    @app.post("/v2/models/small/infer")
    def predict(body: InferIn) -> dict[str, object]:
        return answer(running, body)

    return app


def answer(running: Any, body: InferIn) -> dict[str, object]:
    """Run the model on a request."""
    tensor = body.inputs[0]
    features = np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)
    (probability,) = running.run(["probability"], {"features": features})
    output = {"name": "probability", "shape": probability.shape, "datatype": "FP32", "data": probability.ravel().tolist()}
    return {"model_name": "small", "outputs": [output]}


if __name__ == "__main__":
    serve(build)
