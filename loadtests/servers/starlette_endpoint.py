"""The endpoint that a person writes by hand: Starlette and ONNX Runtime, one row in, one answer out, nothing logged."""

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
        tensor = body["inputs"][0]
        features = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        (probability,) = running.run(["probability"], {"features": features})
        output = {"name": "probability", "shape": probability.shape, "datatype": "FP32", "data": probability.ravel().tolist()}
        return JSONResponse({"model_name": "small", "outputs": [output]})

    return Starlette(routes=[Route("/v2/models/small/infer", predict, methods=["POST"])])


if __name__ == "__main__":
    serve(build)
