"""The peers: what is called for each, in which environment, which models it serves here and what callers send it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from loadtests import load
from loadtests.peers.subjects import Subject

ONNX = frozenset({Subject.SMALL, Subject.LARGE})
PICKLES = frozenset({Subject.PICKLED, Subject.PIPELINE})


def protocol_body(subject: Subject, rows: int) -> bytes:
    """Return a request of the Open Inference Protocol."""
    if not subject.method:
        return load.body(rows=rows)
    # The output's name is the method that MLServer's runtime calls; trees compare in the precision that they were fitted in.
    values = load.features(rows)
    tensor = {"name": "input", "shape": values.shape, "datatype": "FP64", "data": values.ravel().tolist()}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": subject.method}]}).encode()


def nested_body(_: Subject, rows: int) -> bytes:
    """Return a request as BentoML reads an array: nested lists under the argument's name."""
    return json.dumps({"features": load.features(rows).tolist()}).encode()


@dataclass(frozen=True, slots=True)
class Peer:
    """One server to compare with.

    Attributes:
        key: What `--peers` calls it.
        module: Called as `loadtests.peers.asked` says.
        pins: The environment and the file that says what is in it; None for the project's own.
        is_batching: Whether it can join requests by itself.
        is_held: Whether it survives being stopped while others are measured.
    """

    key: str
    title: str
    module: str
    pins: str | None = None
    is_batching: bool = False
    is_held: bool = True
    subjects: frozenset[Subject] = ONNX
    body: Callable[[Subject, int], bytes] = protocol_body


PEERS = (
    Peer("starlette", "Starlette by hand", "loadtests.servers.starlette_endpoint"),
    Peer("fastapi", "FastAPI, def", "loadtests.servers.fastapi_endpoint"),
    Peer("fastapi-async", "FastAPI, async def", "loadtests.servers.fastapi_async"),
    Peer("triton", "Triton's Python wheel", "loadtests.peers.triton_endpoint", "triton", True, is_held=False),
    Peer("mlserver", "MLServer", "loadtests.peers.mlserver_endpoint", "mlserver", True, subjects=ONNX | PICKLES),
    Peer("bare", "predict in a bare server", "loadtests.servers.predict_endpoint", subjects=PICKLES),
    Peer("kserve", "KServe's Python server", "loadtests.peers.kserve_endpoint", "kserve"),
    Peer("litserve", "LitServe", "loadtests.peers.litserve_endpoint", "litserve", True),
    Peer("bentoml", "BentoML", "loadtests.peers.bentoml_endpoint", "bentoml", True, body=nested_body),
    Peer("ray", "Ray Serve", "loadtests.peers.ray_endpoint", "ray", True),
)
