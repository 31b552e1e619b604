"""Element types of stored tensors: the safetensors names and Jlama's two block types."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import DTypeLike

__all__ = ["BLOCK_SIZE", "DType"]

BLOCK_SIZE = 32
"""Elements that share one scale, along the last dimension."""


class DType(Enum):
    """An element type by its name in a safetensors header.

    ``I8`` is Jlama's block type: cg, like Jlama, always reads it together with its ``.qb`` scales.
    """

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    I64 = "I64"
    I32 = "I32"
    I16 = "I16"
    U8 = "U8"
    BOOL = "BOOL"
    Q4 = "Q4"
    I8 = "I8"

    @property
    def bits(self) -> int:
        """Bits per element, scales not counted."""
        return _BITS[self]

    @property
    def is_quantized(self) -> bool:
        """Whether the tensor's values are blocks with scales in a ``.qb`` companion."""
        return self in (DType.Q4, DType.I8)

    @property
    def is_float(self) -> bool:
        """Whether a weight stored in this type can be used without scales."""
        return self in (DType.F32, DType.F16, DType.BF16)

    @property
    def storage(self) -> DTypeLike:
        """The numpy type of the raw elements (bf16 as its bits in uint16, Q4 as packed bytes)."""
        return _STORAGE[self]


_BITS = {
    DType.F64: 64, DType.F32: 32, DType.F16: 16, DType.BF16: 16, DType.I64: 64, DType.I32: 32,
    DType.I16: 16, DType.U8: 8, DType.BOOL: 8, DType.Q4: 4, DType.I8: 8,
}  # fmt: skip

_STORAGE: dict[DType, DTypeLike] = {
    DType.F64: np.float64, DType.F32: np.float32, DType.F16: np.float16, DType.BF16: np.uint16,
    DType.I64: np.int64, DType.I32: np.int32, DType.I16: np.int16, DType.U8: np.uint8,
    DType.BOOL: np.bool_, DType.Q4: np.uint8, DType.I8: np.int8,
}  # fmt: skip
