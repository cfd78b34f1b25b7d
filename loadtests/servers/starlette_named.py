"""The endpoint written by hand for a model with many named inputs; otherwise as `starlette_endpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from loadtests.servers.serve import serve
from loadtests.servers.session import session


def build(model: Path) -> Any:
    """Return the application."""
    running = session(model)

    async def predict(request: Request) -> JSONResponse:
        body = await request.json()
        features = {
            tensor["name"]: np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"]) for tensor in body["inputs"]
        }
        (probability,) = running.run(["probability"], features)
        output = {"name": "probability", "shape": probability.shape, "datatype": "FP32", "data": probability.ravel().tolist()}
        return JSONResponse({"model_name": "small-named", "outputs": [output]})

    return Starlette(routes=[Route("/v2/models/small-named/infer", predict, methods=["POST"])])


if __name__ == "__main__":
    serve(build)
