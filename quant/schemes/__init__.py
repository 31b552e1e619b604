"""Block schemes: rows of floats to Jlama's blocks, with the error that it costs.

:func:`encode` uses the compiled encoder where there is one and numpy elsewhere; both give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.quant.schemes import i8, q4
from cg.quant.schemes.blocks import as_blocks
from cg.runtime import blocks_native, ops_native
from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.tensor import Bytes, Floats, Tensor

__all__ = ["Encoded", "encode", "encode_native", "encode_reference", "native_problem"]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Encoded rows and what is known about them."""

    data: Bytes
    """Blocks as they lie in the file, 1-D."""
    scales: Floats
    """``[rows, cols / 32]``."""
    finite: bool
    """Whether every source element was finite."""
    sum_sq: float
    """Sum of the squared source elements; blocks with NaN or infinity in them are left out."""
    sum_sq_error: float
    """Sum of the squared differences between the source and what the blocks mean, likewise."""

    @classmethod
    def compared(cls, data: Bytes, scales: Floats, dtype: DType, source: Floats) -> Encoded:
        """Blocks, however they came about, compared with the floats ``[rows, cols]`` that they stand for."""
        made = Tensor("", dtype, source.shape, data, scales).dequantize().reshape(-1, BLOCK_SIZE)
        blocks = source.reshape(-1, BLOCK_SIZE)
        finite = np.isfinite(blocks).all(axis=1)
        kept = blocks[finite].astype(np.float64)
        error = kept - made[finite]
        return cls(data, scales, bool(finite.all()), float(np.vdot(kept, kept)), float(np.vdot(error, error)))


def native_problem() -> str | None:
    """Why the compiled encoder cannot be used; None if it can."""
    return ops_native.import_problem()


def encode(tensor: Tensor, dtype: DType, start: int = 0, stop: int | None = None) -> Encoded:
    """Encode rows ``start:stop`` of an f32, f16 or bf16 matrix as Q4 or I8 blocks."""
    if native_problem() is None:
        return encode_native(tensor, dtype, start, stop)
    return encode_reference(tensor, dtype, start, stop)


def encode_native(tensor: Tensor, dtype: DType, start: int = 0, stop: int | None = None) -> Encoded:
    """The compiled encoder; it runs without Python's lock."""
    stop = tensor.rows if stop is None else stop
    rows, cols = stop - start, tensor.cols
    row_bytes = cols * tensor.dtype.bits // 8
    data = np.empty(rows * cols * dtype.bits // 8, dtype=np.uint8)
    scales = np.empty((rows, cols // BLOCK_SIZE), dtype=np.float32)
    source = tensor.data[start * row_bytes : stop * row_bytes]
    finite, sum_sq, sum_sq_error = blocks_native.encode_blocks(
        dtype, tensor.dtype, source, rows, cols, data, scales
    )
    return Encoded(data, scales, finite, sum_sq, sum_sq_error)


def encode_reference(tensor: Tensor, dtype: DType, start: int = 0, stop: int | None = None) -> Encoded:
    """The same in numpy: the definition, and the fallback where nothing was compiled."""
    stop = tensor.rows if stop is None else stop
    matrix: NDArray[Any] = tensor.storage().reshape(tensor.rows, tensor.cols)[start:stop]
    blocks = as_blocks(matrix, tensor.dtype)
    data, scales = (q4 if dtype is DType.Q4 else i8).encode(blocks)
    shaped = scales.reshape(stop - start, tensor.cols // BLOCK_SIZE)
    return Encoded.compared(data.reshape(-1), shaped, dtype, blocks.reshape(stop - start, tensor.cols))
