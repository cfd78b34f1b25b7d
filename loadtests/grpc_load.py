"""Closed load over gRPC: callers with a connection each that wait for their answers, from a process of its own on the other core.

The client is Python's, which takes as much CPU as the server does: what the server takes for a request is the figure to read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from gateway.serving.grpc.inference_pb2 import ModelInferRequest
from loadtests.load import KEYS, TIMEOUT_S, Burst
from loadtests.processes import OTHER_CORE

_METHOD = "/inference.GRPCInferenceService/ModelInfer"


def message(route: str, values: NDArray[np.float32]) -> bytes:
    """Return a request of some rows as one raw tensor."""
    asked = ModelInferRequest(model_name=route, raw_input_contents=[values.tobytes()])
    asked.inputs.add(name="features", datatype="FP32", shape=values.shape)
    return bytes(asked.SerializeToString())


def closed(address: str, content: bytes, *, connections: int, seconds: float) -> Burst:
    """Load a gateway as `load.closed` does over HTTP."""
    arguments = [address, str(connections), str(seconds), base64.b64encode(content).decode()]
    command = ["taskset", "-c", str(OTHER_CORE), sys.executable, "-m", "loadtests.grpc_load", *arguments]
    return Burst(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


async def _load(address: str, content: bytes, connections: int, seconds: float) -> dict[str, float]:
    taken_us: list[float] = []
    errors = 0
    ready, begin = asyncio.Barrier(connections + 1), asyncio.Event()

    async def caller(number: int) -> None:
        nonlocal errors
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call, at = channel.unary_unary(_METHOD), number
            await channel.channel_ready()
            await ready.wait()
            await begin.wait()
            while (began_s := time.monotonic()) < end_s:
                at = (at + connections) % KEYS
                try:
                    await call(content, timeout=TIMEOUT_S, metadata=(("gateway-assignment-key", f"key-{at}"),))
                except grpc.aio.AioRpcError:
                    errors += 1
                    continue
                taken_us.append((time.monotonic() - began_s) * 1e6)

    callers = [asyncio.create_task(caller(number)) for number in range(connections)]
    await ready.wait()
    began_s = time.monotonic()
    end_s = began_s + seconds
    begin.set()
    await asyncio.gather(*callers)
    p50_us, p99_us = np.percentile(taken_us or [0.0], [50, 99]).tolist()
    spent_s = time.monotonic() - began_s
    return {"requests": len(taken_us), "seconds": spent_s, "p50_us": p50_us, "p99_us": p99_us, "errors": errors}


if __name__ == "__main__":
    asked = asyncio.run(_load(sys.argv[1], base64.b64decode(sys.argv[4]), int(sys.argv[2]), float(sys.argv[3])))
    print(json.dumps(asked))
