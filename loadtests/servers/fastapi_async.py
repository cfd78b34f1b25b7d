"""The FastAPI endpoint as `async def`: the model runs on the event loop and saves the way through the thread pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI

from loadtests.servers.fastapi_endpoint import InferIn, answer
from loadtests.servers.serve import serve
from loadtests.servers.session import session


def build(model: Path) -> Any:
    """Return the application."""
    running = session(model)
    app = FastAPI()

    @app.post("/v2/models/small/infer")
    async def predict(body: InferIn) -> dict[str, object]:
        return answer(running, body)

    return app


if __name__ == "__main__":
    serve(build)
