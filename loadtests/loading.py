"""What loading a large version does to the one that serves: its p99 over ten seconds with and without a load in the middle.

`python -m loadtests.loading` registers a 200 MB perceptron and a forest of 2,000 trees while a small version answers at a fixed
rate: upload, validation, load and warm-up all fall into the ten seconds. Then the forest is loaded and unloaded over the
protocol, and the memory of two workers is printed. One core serves, the other carries the generator and the other planes; the
generator goes before them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from gateway.client import AdminClient
from loadtests import load, model
from loadtests.gateway import ROUTE, Measured, measured_gateway
from loadtests.many import pss_mib
from loadtests.open_loop import Paced, opened
from loadtests.processes import OTHER_CORE

RATE = 3_000.0  # requests a second; the generator sends twice that on time from a core of its own
SECONDS, BEFORE_S = 10.0, 3.0
HIDDEN = 3_600  # 4 layers of that width are 200 MB
TREES, DEPTH = 2_000, 6
PRIORITY = 15
GIVE_BACK_S = 3.0  # above the second after which a worker gives memory back


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--rate", type=float, default=RATE)
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    with tempfile.TemporaryDirectory() as scratch, measured_gateway(Path(scratch)) as gateway:
        large = {"mlp": write_mlp(Path(scratch) / "mlp.onnx"), "forest": write_forest(Path(scratch) / "forest.onnx")}
        _go_before(gateway.planes["w0"])
        with ProcessPoolExecutor(1, initializer=_go_first) as generator, gateway.house.admin() as admin:
            if asked.rounds:
                _print_loads(console, generator, admin, gateway=gateway, large=large, asked=asked)
    if asked.cycles:
        _print_cycles(console, cycles=asked.cycles)
    return 0


def _print_loads(
    console: Console,
    generator: ProcessPoolExecutor,
    admin: AdminClient,
    *,
    gateway: Measured,
    large: dict[str, Path],
    asked: argparse.Namespace,
) -> None:
    """Print the live version's latency alone and with each load, in neighbouring runs."""

    def beside(during: Callable[[], float] | None) -> tuple[Paced, float]:
        running = generator.submit(
            opened, gateway.house.url, route=ROUTE, requests_per_s=asked.rate, seconds=SECONDS, connections=64
        )
        took_s = 0.0
        if during is not None:
            time.sleep(BEFORE_S)
            took_s = during()
        return running.result(), took_s

    beside(None)
    for name, artifact in large.items():
        ratios = []
        for turn in range(asked.rounds):
            (alone, _), (loaded, took_s) = beside(None), beside(_registers(admin, f"{name}-{turn}", artifact))
            ratios.append(loaded.p99_us / alone.p99_us)
            console.print(
                f"{name}: p50 {alone.p50_us / 1e3:.2f} → {loaded.p50_us / 1e3:.2f} ms, p99 {alone.p99_us / 1e3:.2f} → "
                f"{loaded.p99_us / 1e3:.2f} ms ({ratios[-1]:.2f}×); upload to warm {took_s:.1f} s; {loaded.errors} errors"
            )
        console.print(f"{name}: median {median(ratios):.2f}×")


def _registers(admin: AdminClient, name: str, artifact: Path) -> Callable[[], float]:
    def register() -> float:
        began_s = time.monotonic()
        admin.register(name, artifact)
        return time.monotonic() - began_s

    return register


def _print_cycles(console: Console, *, cycles: int) -> None:
    """Load and unload a forest over the protocol at two workers, again and again; print their memory."""
    with tempfile.TemporaryDirectory() as scratch, measured_gateway(Path(scratch), workers=2, is_pinned=False) as gateway:
        with gateway.house.admin() as admin:
            for artifact in (model.write_model(Path(scratch) / "cycled.onnx"), write_forest(Path(scratch) / "forest.onnx")):
                admin.register("cycled", artifact)

        def show(when: str) -> None:
            console.print(f"{when}: " + ", ".join(f"{name} {pss_mib(gateway.planes[name]):.0f} MiB" for name in ("w0", "w1")))

        show("before")
        headers = {"Authorization": f"Bearer {gateway.house.token}"}
        with httpx.Client(base_url=gateway.house.url, headers=headers, timeout=90.0) as client:
            for cycle in range(1, cycles + 1):
                for verb in ("load", "unload"):
                    path = f"/v2/repository/models/cycled/{verb}"
                    client.post(path, json={"parameters": {"version": "2"}}).raise_for_status()
                    if verb == "load" and cycle in (1, 10, cycles):
                        show(f"forest loaded {cycle} times")
        time.sleep(GIVE_BACK_S)
        show("after")


def write_mlp(path: Path) -> Path:
    """Write a perceptron of 200 MB, [n, 20] → [n, 1]."""
    sizes = [load.FEATURES, *[HIDDEN] * 5, 1]
    random = np.random.default_rng(3)
    nodes, weights, last = [], [], "features"
    for at, (wide, narrow) in enumerate(pairwise(sizes)):
        weights.append(numpy_helper.from_array(random.standard_normal((wide, narrow), np.float32) / wide**0.5, f"w{at}"))
        nodes += [helper.make_node("MatMul", [last, f"w{at}"], [f"z{at}"]), helper.make_node("Tanh", [f"z{at}"], [f"a{at}"])]
        last = f"a{at}"
    nodes.append(helper.make_node("Sigmoid", [last], ["probability"]))
    return _saved(path, nodes, [("probability", TensorProto.FLOAT, ["n", 1])], weights)


def write_forest(path: Path) -> Path:
    """Write a forest of complete trees with random splits, [n, 20] → a class and its probabilities."""
    random, nodes = np.random.default_rng(4), 2 ** (DEPTH + 1) - 1
    trees, ids = np.repeat(np.arange(TREES), nodes), np.tile(np.arange(nodes), TREES)
    is_leaf = ids >= nodes // 2
    leaves = np.flatnonzero(is_leaf)
    forest = helper.make_node(
        "TreeEnsembleClassifier",
        ["features"],
        ["label", "probability"],
        domain="ai.onnx.ml",
        nodes_treeids=trees.tolist(),
        nodes_nodeids=ids.tolist(),
        nodes_featureids=np.where(is_leaf, 0, random.integers(0, load.FEATURES, ids.size)).tolist(),
        nodes_values=np.where(is_leaf, 0.0, random.normal(size=ids.size)).tolist(),
        nodes_modes=np.where(is_leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_truenodeids=np.where(is_leaf, 0, 2 * ids + 1).tolist(),
        nodes_falsenodeids=np.where(is_leaf, 0, 2 * ids + 2).tolist(),
        class_treeids=trees[leaves].tolist(),
        class_nodeids=ids[leaves].tolist(),
        class_ids=[1] * leaves.size,
        class_weights=(random.random(leaves.size) / TREES).tolist(),
        classlabels_int64s=[0, 1],
        post_transform="NONE",
    )
    return _saved(path, [forest], [("label", TensorProto.INT64, ["n"]), ("probability", TensorProto.FLOAT, ["n", 2])], [])


def _saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    weights: Sequence[onnx.TensorProto],
) -> Path:
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", load.FEATURES])
    graph = helper.make_graph(
        list(nodes), "large", [features], [helper.make_tensor_value_info(*output) for output in outputs], list(weights)
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def _go_first() -> None:
    """Let the generator go before whatever shares its core, as one on another machine would; needs the right to do so."""
    _go_before(os.getpid())
    os.sched_setaffinity(0, {OTHER_CORE})


def _go_before(pid: int) -> None:
    """Put a process before the machine's other work, leaving its threads as far apart as they were."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        thread = int(task.name)
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) - PRIORITY)


if __name__ == "__main__":
    raise SystemExit(main())
