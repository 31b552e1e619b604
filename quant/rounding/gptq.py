"""GPTQ: round a matrix block by block, each block making up for what the blocks before it lost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cg.quant.rounding.fit import BlockCost, Fitter
from cg.runtime.dtypes import BLOCK_SIZE
from cg.runtime.tensor import Floats

__all__ = ["gptq"]

_STRIP = 8 * BLOCK_SIZE  # columns between two products with everything before


def gptq(
    weight: Floats, factor: Floats, order: NDArray[np.intp], fit: Fitter
) -> tuple[NDArray[np.int8], Floats]:
    """Round ``weight [rows, cols]`` where errors ``e`` cost ``|e M|²``: integers and scales.

    ``factor [cols, cols]`` holds ``M`` in its upper triangle, for columns in the given order of blocks. A
    block aims at what makes up for the errors ``E`` of the columns before it: its weights plus
    ``E M[before, block] M[block, block]⁻¹``. Integers ``[rows, cols]`` and scales ``[rows, cols / 32]`` are
    in the order of the weight's columns.
    """
    rows, cols = weight.shape
    integers = np.empty((rows, cols), np.int8)
    scales = np.empty((rows, cols // BLOCK_SIZE), np.float32)
    errors = np.empty((rows, cols), np.float32)
    for strip in range(0, cols, _STRIP):
        end = min(strip + _STRIP, cols)
        carried = errors[:, :strip] @ factor[:strip, strip:end]
        for start in range(strip, end, BLOCK_SIZE):
            stop = start + BLOCK_SIZE
            corner = np.triu(factor[start:stop, start:stop]).astype(np.float64)
            behind = carried[:, start - strip : stop - strip]
            behind += errors[:, strip:start] @ factor[strip:start, start:stop]
            at = slice(order[start], order[start] + BLOCK_SIZE)
            block = order[start] // BLOCK_SIZE
            targets = weight[:, at] + behind @ np.linalg.inv(corner).astype(np.float32)
            fit(targets, BlockCost.from_factor(corner), integers[:, at], scales[:, block])
            errors[:, start:stop] = weight[:, at] - integers[:, at] * scales[:, block, None]
    return integers, scales
