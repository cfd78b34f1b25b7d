"""ONNX models through ONNX Runtime; the only file that names it for serving.

An instance runs in its caller's thread: one intra-op thread, because small models are faster so and a thousand of them would
otherwise start a thousand threads. Strings cross as BYTES: UTF-8 in, UTF-8 out; BF16, which the library has in no NumPy form,
as its own values. A version runs on the first of the execution providers it names that works here; single operators that an
accelerator lacks still run on the processor.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Final

import numpy as np
import onnxruntime

from gateway.core.errors import LoadFailed, ModelFault, PredictFailed
from gateway.core.models import Version
from gateway.core.providers import CPU
from gateway.core.tensors import Array, Datatype, bf16_bits, element_bytes, from_bf16_bits
from gateway.ports.runtimes import Instance

_CONCURRENCY: Final = 8  # a session may be run by many threads; more than a machine's cores never helps
_IDENTITY: Final = bytes.fromhex(  # a model: y = x
    "08093a370a100a017812017922084964656e746974791201675a0f0a0178120a0a"
    "08080112040a020801620f0a0179120a0a08080112040a02080142040a001011"
)
_ENDING: Final = "ExecutionProvider"
_ELSEWHERE: Final = frozenset({"AzureExecutionProvider"})  # sends inputs to another machine, which no version may
_BFLOAT16: Final = 16  # onnx.TensorProto.BFLOAT16
_BF16_TYPE: Final = "tensor(bfloat16)"  # as a session says it
_SILENT: Final = 4  # severity: what a model does wrong is raised, not printed
_Run = Callable[[Sequence[str], Mapping[str, Array], onnxruntime.RunOptions], Sequence[Array]]


def providers() -> dict[str, str]:
    """Return the execution providers that this build of ONNX Runtime has, by the names that versions give them."""
    names = [name for name in onnxruntime.get_available_providers() if name not in _ELSEWHERE]
    return {name.removesuffix(_ENDING).lower(): name for name in names}


class OnnxRuntime:
    """Loads ONNX files.

    Made with one load that means nothing: what the library sets up for itself then, a megabyte and more, belongs to no version.
    """

    def __init__(self) -> None:
        self._providers = providers()
        self._run_options = onnxruntime.RunOptions()  # of every run: its own would take it a third of a small one
        onnxruntime.InferenceSession(_IDENTITY, _options(), providers=[self._providers[CPU]])

    def load(self, path: PurePath, version: Version) -> Instance:
        """Return an instance whose inputs and outputs are those of the version's signature.

        Raises:
            LoadFailed: ONNX Runtime refuses the file, its inputs or outputs have other names, or nothing the version may run on
                works here.
        """
        session, provider = self._opened(path, version.providers or (CPU,))
        _refuse_other_names(session, version)
        if _has_bf16(version) and any(spec.datatype is Datatype.BYTES for spec in version.signature.inputs):
            raise LoadFailed("it has BF16 tensors and takes text, and ONNX Runtime makes no value of its own of text")
        return _OnnxInstance(session, version, provider, self._run_options)

    def _opened(self, path: PurePath, named: Sequence[str]) -> tuple[onnxruntime.InferenceSession, str]:
        """Return a session on the first of the named providers that works here, and which that is."""
        present = [name for name in named if name in self._providers]
        refusal: LoadFailed | None = None
        while present:
            try:
                session = _session(path, [self._providers[name] for name in present])
            except LoadFailed as error:  # the next provider may take the file
                refusal = error
                present = present[1:]
                continue
            works = session.get_providers()  # without those whose libraries or devices were not found
            used = [name for name in present if self._providers[name] in works]
            if used:
                return session, used[0]
            break
        raise refusal or LoadFailed(
            f"no execution provider of {', '.join(named)} works here: this build of ONNX Runtime has "
            f"{', '.join(self._providers)}, each with the libraries and the device that it needs",
            hint="register it with cpu as its last provider, and it falls back to the processor",
        )


class _OnnxInstance:
    """One session."""

    def __init__(
        self, session: onnxruntime.InferenceSession, version: Version, provider: str, run_options: onnxruntime.RunOptions
    ) -> None:
        self._run: _Run | None = _value_run(session) if _has_bf16(version) else _bare_run(session)
        self._run_options = run_options
        self._provider = provider
        self._outputs = [spec.name for spec in version.signature.outputs]
        self._text_inputs = frozenset(spec.name for spec in version.signature.inputs if spec.datatype is Datatype.BYTES)
        self._has_text_outputs = any(spec.datatype is Datatype.BYTES for spec in version.signature.outputs)

    @property
    def concurrency(self) -> int:
        """How many threads may be inside `predict` at once."""
        return _CONCURRENCY

    @property
    def provider(self) -> str:
        """The first of the version's providers that ONNX Runtime could use."""
        return self._provider

    @property
    def runtime_version(self) -> str:
        """ONNX Runtime's version, and the accelerator, whose answers differ in their last bits."""
        return str(onnxruntime.__version__) + ("" if self._provider == CPU else f" {self._provider}")

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name.

        Raises:
            PredictFailed: ONNX Runtime raised, an output is not a tensor, or text is not UTF-8.
        """
        run = self._run
        if run is None:
            raise PredictFailed("the instance was closed")
        try:
            feed = {name: _texts(data) for name, data in inputs.items()} if self._text_inputs else inputs
            outputs = run(self._outputs, feed, self._run_options)
        except Exception as error:  # its own errors share no base class
            raise _fault(PredictFailed, error) from error
        found = dict(zip(self._outputs, outputs, strict=True))
        return {name: _bytes(data) for name, data in found.items()} if self._has_text_outputs else found

    def close(self) -> None:
        """Give the session's memory back."""
        self._run = None


def _bare_run(session: onnxruntime.InferenceSession) -> _Run:
    """Return the library's own run of a session, without the checks around it, which take as long as a small model does.

    They are of inputs, which were checked by the version's signature, and of a fall-back, which is switched off.
    """
    run: _Run = getattr(session, "_sess", session).run
    return run


def _value_run(session: onnxruntime.InferenceSession) -> _Run:
    """Return a run of the library's own values, for versions with a tensor that it cannot make of an array or turn into one."""
    wide = frozenset(node.name for node in session.get_inputs() if node.type == _BF16_TYPE)

    def run(outputs: Sequence[str], inputs: Mapping[str, Array], options: onnxruntime.RunOptions) -> list[Array]:
        feed = {name: _value(data, is_bf16=name in wide) for name, data in inputs.items()}
        return [_array(value) for value in session.run_with_ort_values(list(outputs), feed, options)]

    return run


def _has_bf16(version: Version) -> bool:
    return any(spec.datatype is Datatype.BF16 for spec in (*version.signature.inputs, *version.signature.outputs))


def _value(data: Array, *, is_bf16: bool) -> onnxruntime.OrtValue:
    if is_bf16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bf16_bits(data), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(data)


def _array(value: onnxruntime.OrtValue) -> Array:
    if value.element_type() != _BFLOAT16:
        array: Array = value.numpy()
        return array
    shape = value.shape()
    content = ctypes.string_at(value.data_ptr(), math.prod(shape) * element_bytes(Datatype.BF16))
    return from_bf16_bits(np.frombuffer(content, np.uint16)).reshape(shape)


def _session(path: PurePath, names: Sequence[str]) -> onnxruntime.InferenceSession:
    try:  # ONNX Runtime's own fall-back would start again without what the version names, and print that
        return onnxruntime.InferenceSession(str(path), _options(), providers=list(names), enable_fallback=0)
    except Exception as error:  # its own errors share no base class
        raise _fault(LoadFailed, error) from error


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
