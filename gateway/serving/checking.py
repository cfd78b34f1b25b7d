"""What a request sends against what a version expects: the tensors in the signature's order, and how many rows they hold.

Compiled once per version, because every request passes here. A mismatch is the caller's fault and never reaches the runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from gateway.core.errors import MalformedRequest, SignatureMismatch
from gateway.core.models import Version
from gateway.core.tensors import VARIABLE, Tensor, TensorSpec
from gateway.serving.wire import ELEMENTS, Element, Request, array_of, flattened


class Checker:
    """One version's expectations.

    Attributes:
        columns: Names of the features in order; for many named inputs without declared columns the inputs' own.
        is_batched: Whether rows of different requests may be joined.
        has_open_shapes: Whether tensors that fit may still differ in a trailing dimension, so that they cannot be joined.
    """

    def __init__(self, version: Version) -> None:
        signature = version.signature
        self.is_batched = signature.is_batched
        self.has_open_shapes = any(VARIABLE in spec.shape[1:] for spec in signature.inputs)
        self._inputs = signature.inputs
        self._outputs = frozenset(spec.name for spec in signature.outputs)
        self._is_wide = len(signature.inputs) == 1
        self._is_columnar = all(len(spec.shape) == 1 or spec.shape[1:] == (1,) for spec in signature.inputs) and self.is_batched
        declared = tuple(column.name for column in version.columns)
        named = tuple(spec.name for spec in signature.inputs)
        self.columns = declared if self._is_wide or set(declared) == set(named) else named

    def checked(self, request: Request) -> tuple[tuple[Tensor, ...], int]:
        """Return the inputs in the signature's order and the number of rows (1 for a version that does not batch).

        Raises:
            SignatureMismatch: an input is missing, unknown, or of another datatype or shape; an output asked for is unknown.
            MalformedRequest: rows by name or position do not fit.
        """
        if request.wanted is not None:
            for name in request.wanted:
                if name not in self._outputs:
                    raise SignatureMismatch(
                        f"output {name[:200]!r} is not one of the version's: {', '.join(sorted(self._outputs))}"
                    )
        tensors = request.tensors if request.rows is None else self._from_rows(request.rows)
        if len(tensors) != len(self._inputs):
            self._refuse_names(tensors.keys())
        found = tuple([_fitting(tensors, spec) for spec in self._inputs])
        return found, self._rows(found)

    def _rows(self, tensors: Sequence[Tensor]) -> int:
        if not self.is_batched:
            return 1
        rows: int = tensors[0].data.shape[0]
        for tensor in tensors:
            if tensor.data.shape[0] != rows:
                raise SignatureMismatch(f"input {tensor.name!r} has {tensor.data.shape[0]} rows, {tensors[0].name!r} has {rows}")
        return rows

    def _refuse_names(self, sent: Iterable[str]) -> None:
        known = {spec.name for spec in self._inputs}
        for name in sent:
            if name not in known:
                raise SignatureMismatch(f"input {name[:200]!r} is not one of the version's: {', '.join(sorted(known))}")

    def _from_rows(self, rows: list[Any]) -> dict[str, Tensor]:
        if not self.is_batched or not (self._is_wide or self._is_columnar):
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
        spec = self._inputs[0]
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
            for spec in self._inputs
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
    want, have = spec.shape, tensor.data.shape
    is_rows_of_fixed_shape = len(want) > 0 and want[0] == VARIABLE and want[1:] == have[1:] and len(want) == len(have)
    if not is_rows_of_fixed_shape and not spec.accepts(have):  # the first is the common case, three times as fast
        raise SignatureMismatch(f"input {spec.name!r}: expected shape {list(want)}, got {list(have)}")
    return tensor
