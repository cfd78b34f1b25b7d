"""How every endpoint but the gateway's loads a model; needs ONNX Runtime alone, since peers have environments of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime


def session(model: Path) -> Any:
    """Return a session with one thread, as anyone who serves on one core would set it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
