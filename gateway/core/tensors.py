"""Tensors and their datatypes, as the Open Inference Protocol names them.

Pure values: no wire format here (that is `serving/wire.py`) and no runtime. A `Tensor` holds a C-contiguous NumPy array of
exactly the numpy type that its datatype maps to; BYTES are object arrays of `bytes`. BF16, of which NumPy has no type, is held
as the FP32 that it equals, whose lower half is zero: so whatever reads numbers reads these too.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Shape = tuple[int, ...]
VARIABLE: Final = -1  # a dimension of any size, as in the protocol's metadata


class Datatype(enum.Enum):
    """The protocol's element types."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


NUMPY_DTYPES: Final[dict[Datatype, np.dtype[np.generic]]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.UINT16: np.dtype(np.uint16),
    Datatype.UINT32: np.dtype(np.uint32),
    Datatype.UINT64: np.dtype(np.uint64),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT16: np.dtype(np.int16),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
    Datatype.BYTES: np.dtype(np.object_),
    Datatype.BF16: np.dtype(np.float32),
}
HALVES: Final = frozenset({Datatype.FP16, Datatype.BF16})  # what has no JSON form
FLOATS: Final = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
INTEGERS: Final = frozenset(d for d in Datatype if "INT" in d.value)


_BF16_BYTES: Final = 2
_BF16_SHIFT: Final = 16  # bits of the FP32's lower half


def element_bytes(datatype: Datatype) -> int:
    """Return what an element takes in binary form; a pointer's size for BYTES, whose elements have none of their own."""
    return _BF16_BYTES if datatype is Datatype.BF16 else NUMPY_DTYPES[datatype].itemsize


def bf16_bits(numbers: Array) -> NDArray[np.uint16]:
    """Return FP32 numbers as the bits of BF16, their upper halves; exact for what is held of a BF16 tensor, else cut off."""
    return (np.ascontiguousarray(numbers).view(np.uint32) >> np.uint32(_BF16_SHIFT)).astype(np.uint16)


def from_bf16_bits(bits: NDArray[np.uint16]) -> Array:
    """Return the FP32 numbers that bits of BF16 are; NaN of any payload keeps it."""
    return (bits.astype(np.uint32) << np.uint32(_BF16_SHIFT)).view(np.float32)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a signature says of one input or output; `VARIABLE` (-1) marks a dimension of any size."""

    name: str
    datatype: Datatype
    shape: Shape

    @property
    def is_batched(self) -> bool:
        """Whether the first dimension counts rows."""
        return bool(self.shape) and self.shape[0] == VARIABLE

    def accepts(self, shape: Shape) -> bool:
        """Return whether a tensor of `shape` fits."""
        return len(shape) == len(self.shape) and all(
            want in (VARIABLE, have) for want, have in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a version, in the artifact's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def is_batched(self) -> bool:
        """Whether rows of different requests may be joined: every input and output has a leading variable dimension."""
        return all(spec.is_batched for spec in (*self.inputs, *self.outputs))


@dataclass(slots=True)
class Tensor:
    """A named array. Never changed; not frozen, because every answer makes some, and freezing doubles what that costs.

    Attributes:
        data: C-contiguous, of `NUMPY_DTYPES[datatype]`; its shape is the tensor's shape.
    """

    name: str
    datatype: Datatype
    data: Array

    @property
    def shape(self) -> Shape:
        """The dimensions, as the protocol prints them."""
        return self.data.shape

    @property
    def size_bytes(self) -> int:
        """What the elements take in memory, the text of `BYTES` included."""
        return self.data.nbytes + (sum(map(len, self.data.ravel().tolist())) if self.datatype is Datatype.BYTES else 0)
