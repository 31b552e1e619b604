"""What the compiled kernels do for quantizing: encoding blocks as Jlama does, and fitting them to targets.

Everything that the kernels rely on is checked here: they trust their arguments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import UsageError
from cg.runtime.ops_native import active_isa, native_format
from cg.runtime.tensor import Bytes, Floats

__all__ = ["encode_blocks", "fit_blocks"]


def encode_blocks(
    dtype: DType, source_dtype: DType, data: Bytes, rows: int, cols: int, out_data: Bytes, out_scales: Floats
) -> tuple[bool, float, float]:
    """Encode ``rows x cols`` floats as Q4 or I8 blocks, bit for bit as Jlama does, on the calling thread.

    ``data`` are their bytes (F32, F16 or BF16, at any address), ``out_data`` the encoded bytes,
    ``out_scales`` float32 ``[rows, cols / 32]``. Releases the GIL: run it on several chunks at once.

    Returns:
        Whether all elements are finite, the sum of their squares, and the sum of the squared errors; both
        sums leave out blocks that are not finite.

    Raises:
        BackendError: as :func:`active_isa`.
        UsageError: types or sizes that do not fit each other.
    """
    if not dtype.is_quantized or not source_dtype.is_float:
        raise UsageError(f"encode_blocks: cannot encode {source_dtype.value} as {dtype.value}")
    size = rows * cols
    if rows < 0 or cols < 0 or cols % BLOCK_SIZE or data.nbytes * 8 != size * source_dtype.bits:
        raise UsageError(
            f"encode_blocks: {data.nbytes} bytes are not {rows} x {cols} of {source_dtype.value}"
        )
    if out_data.nbytes * 8 != size * dtype.bits or out_scales.shape != (rows, cols // BLOCK_SIZE):
        raise UsageError(f"encode_blocks: the outputs do not fit {rows} x {cols} of {dtype.value}")
    isa = active_isa()
    import cg.runtime._native as _native

    try:
        return _native.encode_blocks(
            isa, native_format(dtype), native_format(source_dtype), data, out_data, out_scales
        )
    except TypeError as error:
        raise UsageError(
            "encode_blocks: data and out_data must be uint8, out_scales float32, contiguous"
        ) from error


def fit_blocks(
    targets: Floats,
    coupling: Floats,
    diagonal_root: Floats,
    diagonal: bool,
    fractions: Floats,
    bounds: tuple[float, float],
    half: bool,
    integers: NDArray[np.int8],
    scales: Floats,
    losses: Floats,
) -> None:
    """Fit one block of each of ``rows`` rows, on the calling thread, as :mod:`cg.quant.rounding.fit` says.

    ``targets`` ``[rows, 32]`` are finite and may be columns of a wider array, as may be the outputs
    ``integers`` ``[rows, 32]`` and ``scales`` ``[rows]``; ``losses`` is ``[rows]``. Releases the GIL.

    Raises:
        BackendError: as :func:`active_isa`.
        UsageError: types or sizes that do not fit each other.
    """
    rows = len(targets)
    shapes = (targets.shape, coupling.shape, diagonal_root.shape, integers.shape, scales.shape, losses.shape)
    block = (rows, BLOCK_SIZE)
    if (
        shapes != (block, (BLOCK_SIZE, BLOCK_SIZE), (BLOCK_SIZE,), block, (rows,), (rows,))
        or not fractions.size
    ):
        raise UsageError(f"fit_blocks: arrays of shapes {shapes} do not fit each other")
    if targets.strides[1] != targets.itemsize or integers.strides[1] != integers.itemsize:
        raise UsageError("fit_blocks: the elements of a row must lie next to each other")
    isa = active_isa()
    import cg.runtime._native as _native

    try:
        _native.fit_blocks(
            isa, targets, coupling, diagonal_root, diagonal, fractions, *bounds, half,
            integers, scales, losses,
        )  # fmt: skip
    except TypeError as error:
        raise UsageError("fit_blocks: integers must be int8, everything else float32") from error
