"""A pickled model in the server's own process: what the least server adds to calling it, with nothing apart and nothing logged.

A call that waits for a request finds the processor's memory cold and wakes its caller's processor; in a loop of calls none does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson

from loadtests.peers.subjects import Subject
from loadtests.servers.serve import serve


def build(model: Path) -> Any:
    """Return the application."""
    predict = getattr(joblib.load(model), Subject(model.name).method)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, has_more = b"", True
        while has_more:
            message = await receive()
            body, has_more = body + message.get("body", b""), message.get("more_body", False)
        tensor = orjson.loads(body)["inputs"][0]
        found = predict(np.array(tensor["data"], np.float64).reshape(tensor["shape"]))
        answer = orjson.dumps({"outputs": [{"shape": found.shape, "data": found.ravel().tolist()}]})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


if __name__ == "__main__":
    serve(build)
