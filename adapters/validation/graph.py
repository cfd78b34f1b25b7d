"""What an ONNX file says of itself, read without running it: is it whole, does it stand alone, what goes in and out.

The only adapter that names `onnx`. Weights outside the file are refused, because the digest would not cover them; operators of
unknown domains too, because nothing here could run them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from gateway.core.errors import NotValid
from gateway.core.models import DIMENSIONS_MAX
from gateway.core.tensors import VARIABLE, Datatype, Signature, TensorSpec

FILE_BYTES_MAX: Final = 2**31 - 1  # protobuf's own limit
NAME_LENGTH_MAX: Final = 200  # characters of a tensor's name, which may become a column's
DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft"})  # what ONNX Runtime carries
_DATATYPES: Final[dict[int, Datatype]] = {
    onnx.TensorProto.BOOL: Datatype.BOOL,
    onnx.TensorProto.UINT8: Datatype.UINT8,
    onnx.TensorProto.UINT16: Datatype.UINT16,
    onnx.TensorProto.UINT32: Datatype.UINT32,
    onnx.TensorProto.UINT64: Datatype.UINT64,
    onnx.TensorProto.INT8: Datatype.INT8,
    onnx.TensorProto.INT16: Datatype.INT16,
    onnx.TensorProto.INT32: Datatype.INT32,
    onnx.TensorProto.INT64: Datatype.INT64,
    onnx.TensorProto.FLOAT16: Datatype.FP16,
    onnx.TensorProto.BFLOAT16: Datatype.BF16,
    onnx.TensorProto.FLOAT: Datatype.FP32,
    onnx.TensorProto.DOUBLE: Datatype.FP64,
    onnx.TensorProto.STRING: Datatype.BYTES,
}
_ELEMENTS: Final = {datatype: element for element, datatype in _DATATYPES.items()}


def read_signature(path: Path) -> Signature:
    """Return the signature of an ONNX file after checking that it is whole and stands alone.

    Raises:
        NotValid: with the reason.
    """
    model = _parsed(path)
    _refuse_outside(model)
    _refuse_unknown_operators(model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:  # ValueError: over 2 GiB when written again
        raise NotValid(f"not a valid ONNX model: {_first_line(error)}") from error
    weights = {tensor.name for tensor in model.graph.initializer}  # older files list their weights among the inputs
    signature = Signature(
        inputs=tuple(_spec(info, "input") for info in model.graph.input if info.name not in weights),
        outputs=tuple(_spec(info, "output") for info in model.graph.output),
    )
    if not signature.inputs:
        raise NotValid("the model has no inputs, so that every answer would be the same")
    if not signature.outputs:
        raise NotValid("the model has no outputs")
    return signature


def fitted(content: bytes, signature: Signature, *, output_at: int) -> bytes:
    """Return a converted model with another signature: casts around its FP32 inputs, and one of its outputs alone.

    Args:
        content: A model whose inputs are those of the signature; numbers as FP32 under `NAME_fp32`.
        output_at: Which of its outputs becomes the signature's.
    """
    model = onnx.load_model_from_string(content)
    graph, spec = model.graph, signature.outputs[0]
    numbers = [one.name for one in signature.inputs if one.datatype is not Datatype.BYTES]
    casts = [onnx.helper.make_node("Cast", [name], [f"{name}_fp32"], to=onnx.TensorProto.FLOAT) for name in numbers]
    source, nodes = graph.output[output_at].name, list(graph.node)
    shape = onnx.helper.make_tensor(f"{spec.name}_shape", onnx.TensorProto.INT64, [len(spec.shape)], list(spec.shape))
    ends = [onnx.helper.make_node("Reshape", [source, shape.name], [f"{spec.name}_shaped"])]
    shaped = f"{spec.name}_shaped"
    if spec.datatype is Datatype.BYTES:
        ends.append(onnx.helper.make_node("Identity", [shaped], [spec.name]))
    else:
        ends.append(onnx.helper.make_node("Cast", [shaped], [spec.name], to=_ELEMENTS[spec.datatype]))
    for part, items in (
        (graph.node, [*casts, *nodes, *ends]),
        (graph.input, [_value(one) for one in signature.inputs]),
        (graph.output, [_value(spec)]),
    ):
        del part[:]
        part.extend(items)
    graph.initializer.append(shape)
    converted: bytes = model.SerializeToString()
    return converted


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(spec.name, _ELEMENTS[spec.datatype], ["n", *spec.shape[1:]])


def _parsed(path: Path) -> onnx.ModelProto:
    size = path.stat().st_size
    if size == 0:
        raise NotValid("the artifact is empty")
    if size > FILE_BYTES_MAX:
        raise NotValid("the artifact is over 2 GiB, the most that an ONNX file may have")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError as error:
        raise NotValid(
            "the artifact is not an ONNX file, or is cut short", hint="compare its size with the file that was exported"
        ) from error
    if not model.graph.node:
        raise NotValid("the artifact holds no ONNX graph")
    return model


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and every graph inside its nodes' attributes, those of functions too."""
    waiting = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    waiting += [graph for node in nodes for graph in _inner(node)]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [inner for node in graph.node for inner in _inner(node)]


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _refuse_outside(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise NotValid(
                f"the weights {tensor.name[:100]!r} lie in a file outside the artifact, which its digest would not cover",
                hint="save it as one file: onnx.save_model(model, path, save_as_external_data=False)",
            )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that the file holds: of its graphs, and of its functions' nodes."""
    nodes: list[Iterable[onnx.NodeProto]] = [function.node for function in model.functions]
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes.append(graph.node)
    for attribute in (attribute for group in nodes for node in group for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _refuse_unknown_operators(model: onnx.ModelProto) -> None:
    own = {function.domain for function in model.functions}
    nodes: list[Iterable[onnx.NodeProto]] = [function.node for function in model.functions]
    nodes += [graph.node for graph in _graphs(model)]
    for node in (node for group in nodes for node in group):
        if node.domain not in DOMAINS and node.domain not in own:
            raise NotValid(
                f"operator {node.op_type!r} is of the domain {node.domain!r}, which ONNX Runtime does not carry",
                hint="export it with standard operators, or as a function of the model",
            )


def _spec(info: onnx.ValueInfoProto, side: str) -> TensorSpec:
    if not 0 < len(info.name) <= NAME_LENGTH_MAX or not info.name.isprintable():
        raise NotValid(f"{side} {info.name[:40]!r}: a tensor's name has 1 to {NAME_LENGTH_MAX} printable characters")
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise NotValid(
            f"{side} {info.name!r} is a {(kind or 'nothing').removesuffix('_type')}, not a tensor",
            hint="with skl2onnx: convert_sklearn(…, options={'zipmap': False})",
        )
    tensor = info.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type)
    if datatype is None:
        known = {number: name for name, number in onnx.TensorProto.DataType.items()}
        name = known.get(tensor.elem_type, str(tensor.elem_type))
        raise NotValid(
            f"{side} {info.name!r} has elements of type {name}, which the protocol cannot carry", hint="cast it in the graph"
        )
    if not tensor.HasField("shape"):
        raise NotValid(
            f"{side} {info.name!r} has no shape", hint="declare one when exporting, with a name for each variable dimension"
        )
    if len(tensor.shape.dim) > DIMENSIONS_MAX:
        raise NotValid(f"{side} {info.name!r} has {len(tensor.shape.dim)} dimensions; at most {DIMENSIONS_MAX} can be asked for")
    return TensorSpec(info.name, datatype, tuple(_size(dimension) for dimension in tensor.shape.dim))


def _size(dimension: onnx.TensorShapeProto.Dimension) -> int:
    return dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value > 0 else VARIABLE


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
