"""What a version expects of a request, and what it promises of its outputs; compiled once, because every request passes here.

A request that does not fit is the caller's fault and never reaches the runtime; outputs that do not fit are the version's fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from gateway.core.errors import MalformedRequest, OutputMismatch, SignatureMismatch
from gateway.core.models import Version
from gateway.core.tensors import NUMPY_DTYPES, VARIABLE, Array, Datatype, Shape, Tensor, TensorSpec, element_bytes
from gateway.serving.binary import Blobs, Slot, text_array
from gateway.serving.elements import ELEMENTS, Element, array_of, flattened
from gateway.serving.wire import Request

_ROWS: Final = (VARIABLE,)  # the first dimension of what has rows
_ONE_ROW: Final = (1,)


class Checker:
    """One version's expectations and promises.

    Attributes:
        version: Whose it is.
        inputs, outputs: The signature's, in its order.
        columns: Names of the features in order; for many named inputs without declared columns the inputs' own.
        is_batched: Whether rows of different requests may be joined: they are counted, and answered alike alone and in a batch.
        has_open_shapes: Whether tensors that fit may still differ in a trailing dimension, so that they cannot be joined.
    """

    def __init__(self, version: Version) -> None:
        signature = version.signature
        self.version = version
        self._has_rows = signature.is_batched
        self.is_batched = self._has_rows and version.is_joinable
        self.has_open_shapes = any(VARIABLE in spec.shape[1:] for spec in signature.inputs)
        self.inputs = signature.inputs
        self.outputs = signature.outputs
        self._dtypes = [NUMPY_DTYPES[spec.datatype] for spec in signature.outputs]
        self._output_names = frozenset(spec.name for spec in signature.outputs)
        self._is_wide = len(signature.inputs) == 1
        self._is_columnar = all(len(spec.shape) == 1 or spec.shape[1:] == (1,) for spec in signature.inputs) and self._has_rows
        declared = tuple(column.name for column in version.columns)
        named = tuple(spec.name for spec in signature.inputs)
        self.columns = declared if self._is_wide or set(declared) == set(named) else named

    def checked(self, request: Request) -> tuple[tuple[Tensor, ...], int]:
        """Return the inputs in the signature's order and the number of rows (1 for a version without rows).

        Raises:
            SignatureMismatch: an input is missing, unknown, or of another datatype or shape; an output asked for is unknown.
            MalformedRequest: rows by name or position do not fit.
        """
        if request.wanted is not None:
            for name in request.wanted:
                if name not in self._output_names:
                    raise SignatureMismatch(
                        f"output {name[:200]!r} is not one of the version's: {', '.join(sorted(self._output_names))}"
                    )
        tensors = request.tensors or self.tensors_of(request)
        if len(tensors) != len(self.inputs):
            self._refuse_names(tensors.keys())
        found = tuple([_fitting(tensors, spec) for spec in self.inputs])
        return found, self._rows(found) if self._has_rows else 1

    def tensors_of(self, request: Request) -> dict[str, Tensor]:
        """Return the inputs of a request that came without names or shapes, as rows or as raw bytes.

        Raises:
            SignatureMismatch, MalformedRequest: they do not fit.
        """
        if request.raw is not None:
            return self._from_raw(request.raw)
        return request.tensors if request.rows is None else self._from_rows(request.rows)

    def checked_outputs(self, outputs: Mapping[str, object], rows: int) -> list[Array]:
        """Return the outputs in the signature's order.

        Args:
            rows: Of the inputs; not looked at when the signature has none.

        Raises:
            OutputMismatch: one is missing, no tensor, or of another datatype or shape.
        """
        found: list[Array] = []
        for spec, dtype in zip(self.outputs, self._dtypes, strict=True):
            data = outputs.get(spec.name)
            if not isinstance(data, np.ndarray):
                raise OutputMismatch(f"output {spec.name!r} is not a tensor")
            if data.dtype != dtype:
                raise OutputMismatch(f"output {spec.name!r} is {data.dtype}, the signature says {spec.datatype.value}")
            if not _has_shape(spec, data.shape) or (self._has_rows and data.shape[0] != rows):
                raise OutputMismatch(f"output {spec.name!r} has shape {list(data.shape)}, which does not fit {list(spec.shape)}")
            found.append(data)
        return found

    def _rows(self, tensors: Sequence[Tensor]) -> int:
        rows: int = tensors[0].data.shape[0]
        for tensor in tensors[1:]:
            if tensor.data.shape[0] != rows:
                raise SignatureMismatch(f"input {tensor.name!r} has {tensor.data.shape[0]} rows, {tensors[0].name!r} has {rows}")
        return rows

    def _refuse_names(self, sent: Iterable[str]) -> None:
        known = {spec.name for spec in self.inputs}
        for name in sent:
            if name not in known:
                raise SignatureMismatch(f"input {name[:200]!r} is not one of the version's: {', '.join(sorted(known))}")

    def _from_raw(self, raw: bytes) -> dict[str, Tensor]:
        """Return the bytes as the only input, one row of it; they say how large its open dimension is."""
        if len(self.inputs) != 1:
            raise SignatureMismatch(f"a body without a JSON part is one input, and this version has {len(self.inputs)}")
        spec = self.inputs[0]
        name, rows = spec.name, _ONE_ROW if self._has_rows else ()
        sizes = spec.shape[len(rows) :]
        if spec.datatype is Datatype.BYTES:
            if any(size not in (1, VARIABLE) for size in sizes):
                raise SignatureMismatch(f"a body without a JSON part is one element, and input {name!r} needs {list(spec.shape)}")
            return {name: Tensor(name, spec.datatype, text_array([raw], (*rows, *(1 for _ in sizes)), name))}
        if sizes.count(VARIABLE) > 1:
            raise SignatureMismatch(f"input {name!r} has several open dimensions; send its shape in a JSON part")
        known = math.prod(size for size in sizes if size != VARIABLE) * element_bytes(spec.datatype)
        shape = tuple(len(raw) // known if size == VARIABLE and known else max(size, 0) for size in sizes)
        return {name: Tensor(name, spec.datatype, Blobs(raw, 0).take(Slot(name, spec.datatype, (*rows, *shape), len(raw))))}

    def _from_rows(self, rows: list[Any]) -> dict[str, Tensor]:
        if not self._has_rows or not (self._is_wide or self._is_columnar):
            raise SignatureMismatch("this version does not take rows; use the Open Inference Protocol under /v2")
        if type(rows[0]) is dict:
            rows = [self._by_position(row, at) for at, row in enumerate(rows)]
        return self._wide(rows) if self._is_wide else self._columnar(rows)

    def _by_position(self, row: dict[str, Any], at: int) -> list[Any]:
        if not self.columns:
            raise SignatureMismatch("this version has no column names; send rows by position")
        if unknown := row.keys() - set(self.columns):
            raise SignatureMismatch(f"instances[{at}]: {min(unknown)[:200]!r} is not a column")
        try:
            return [row[column] for column in self.columns]
        except KeyError as missing:
            raise SignatureMismatch(f"instances[{at}]: column {missing} is missing; null stands for a missing value") from None

    def _wide(self, rows: list[list[Any]]) -> dict[str, Tensor]:
        spec = self.inputs[0]
        name, shape = spec.name, spec.shape
        flat_rows = [flattened(row, name) for row in rows]
        width = len(flat_rows[0])
        trailing = (width,) if len(shape) == 2 and shape[1] == VARIABLE else shape[1:]
        if VARIABLE in trailing:
            raise SignatureMismatch("this version's input has several open dimensions; use the Open Inference Protocol under /v2")
        expected = 1
        for size in trailing:
            expected *= size
        for at, row in enumerate(flat_rows):
            if len(row) != expected:
                raise MalformedRequest(f"instances[{at}]: expected {expected} values, got {len(row)}")
        flat = list(chain.from_iterable(flat_rows))
        return {name: Tensor(name, spec.datatype, array_of(_element(spec), flat, (len(rows), *trailing), name))}

    def _columnar(self, rows: list[list[Any]]) -> dict[str, Tensor]:
        for at, row in enumerate(rows):
            if len(row) != len(self.columns):
                raise MalformedRequest(f"instances[{at}]: expected {len(self.columns)} values, got {len(row)}")
        by_column = dict(zip(self.columns, map(list, zip(*rows, strict=True)), strict=True))
        return {
            spec.name: Tensor(
                spec.name, spec.datatype, array_of(_element(spec), by_column[spec.name], (len(rows), *spec.shape[1:]), spec.name)
            )
            for spec in self.inputs
        }


def _element(spec: TensorSpec) -> Element:
    element = ELEMENTS.get(spec.datatype)
    if element is None:
        raise MalformedRequest(f"input {spec.name!r}: {spec.datatype.value} has no JSON form")
    return element


def _fitting(tensors: dict[str, Tensor], spec: TensorSpec) -> Tensor:
    tensor = tensors.get(spec.name)
    if tensor is None:
        raise SignatureMismatch(f"input {spec.name!r} is missing")
    if tensor.datatype is not spec.datatype:
        raise SignatureMismatch(f"input {spec.name!r}: expected {spec.datatype.value}, got {tensor.datatype.value}")
    if not _has_shape(spec, tensor.data.shape):
        raise SignatureMismatch(f"input {spec.name!r}: expected shape {list(spec.shape)}, got {list(tensor.data.shape)}")
    return tensor


def _has_shape(spec: TensorSpec, have: Shape) -> bool:
    want = spec.shape
    if have and want[:1] == _ROWS and want[1:] == have[1:]:
        return True  # the common case, rows of a fixed shape, at a third of the cost
    return spec.accepts(have)
