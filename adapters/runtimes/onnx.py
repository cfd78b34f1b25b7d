"""ONNX models through ONNX Runtime; the only file that names it for serving.

An instance runs in its caller's thread: one intra-op thread, because small models are faster so and a thousand of them would
otherwise start a thousand threads. Strings cross as BYTES: UTF-8 in, UTF-8 out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Final

import numpy as np
import onnxruntime

from gateway.core.errors import LoadFailed, ModelFault, PredictFailed
from gateway.core.models import Version
from gateway.core.tensors import Array, Datatype
from gateway.ports import Instance

_CONCURRENCY: Final = 8  # a session may be run by many threads; more than a machine's cores never helps
_IDENTITY: Final = bytes.fromhex(  # a model: y = x
    "08093a370a100a017812017922084964656e746974791201675a0f0a0178120a0a"
    "08080112040a020801620f0a0179120a0a08080112040a02080142040a001011"
)
_SILENT: Final = 4  # severity: what a model does wrong is raised, not printed


class OnnxRuntime:
    """Loads ONNX files.

    Made with one load that means nothing: what the library sets up for itself then, a megabyte and more, belongs to no version.
    """

    def __init__(self) -> None:
        onnxruntime.InferenceSession(_IDENTITY, _options(), providers=["CPUExecutionProvider"])

    def load(self, path: PurePath, version: Version) -> Instance:
        """Return an instance whose inputs and outputs are those of the version's signature.

        Raises:
            LoadFailed: ONNX Runtime refuses the file, or its inputs or outputs have other names.
        """
        try:
            session = onnxruntime.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # its own errors share no base class
            raise _fault(LoadFailed, error) from error
        _refuse_other_names(session, version)
        return _OnnxInstance(session, version)


class _OnnxInstance:
    """One session."""

    def __init__(self, session: onnxruntime.InferenceSession, version: Version) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [spec.name for spec in version.signature.outputs]
        self._text_inputs = frozenset(spec.name for spec in version.signature.inputs if spec.datatype is Datatype.BYTES)
        self._has_text_outputs = any(spec.datatype is Datatype.BYTES for spec in version.signature.outputs)

    @property
    def concurrency(self) -> int:
        """How many threads may be inside `predict` at once."""
        return _CONCURRENCY

    @property
    def runtime_version(self) -> str:
        """ONNX Runtime's version."""
        return str(onnxruntime.__version__)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name.

        Raises:
            PredictFailed: ONNX Runtime raised, an output is not a tensor, or text is not UTF-8.
        """
        if self._session is None:
            raise PredictFailed("the instance was closed")
        try:
            feed = {name: _texts(data) for name, data in inputs.items()} if self._text_inputs else inputs
            outputs = self._session.run(self._outputs, feed)
        except Exception as error:  # its own errors share no base class
            raise _fault(PredictFailed, error) from error
        found = dict(zip(self._outputs, outputs, strict=True))
        return {name: _bytes(data) for name, data in found.items()} if self._has_text_outputs else found

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None


def _fault(kind: type[ModelFault], error: Exception) -> ModelFault:
    return kind(f"ONNX Runtime: {error}")


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # its first megabyte outweighs a small model, and it keeps what a large batch took
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _refuse_other_names(session: onnxruntime.InferenceSession, version: Version) -> None:
    for side, found, specs in (
        ("inputs", session.get_inputs(), version.signature.inputs),
        ("outputs", session.get_outputs(), version.signature.outputs),
    ):
        names = [node.name for node in found]
        if sorted(names) != sorted(spec.name for spec in specs):
            raise LoadFailed(f"the artifact's {side} {names} are not those of the version's signature")


def _texts(data: Array) -> Array:
    if data.dtype != np.object_:
        return data
    texts = np.empty(data.shape, np.object_)
    texts.reshape(-1)[:] = [item.decode() if isinstance(item, bytes) else item for item in data.reshape(-1).tolist()]
    return texts


def _bytes(data: Array) -> Array:
    if not isinstance(data, np.ndarray):
        raise PredictFailed(f"an output is a {type(data).__name__}, not a tensor")
    if data.dtype != np.object_ and data.dtype.kind != "U":
        return data
    found = np.empty(data.shape, np.object_)
    found.reshape(-1)[:] = [item.encode() if isinstance(item, str) else item for item in data.reshape(-1).tolist()]
    return found
