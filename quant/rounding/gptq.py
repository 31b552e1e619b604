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

    ``factor [cols, cols]`` holds ``M`` in its upper triangle. Columns of both are in the given order, which
    moves whole blocks; integers ``[rows, cols]`` and scales ``[rows, cols / 32]`` come back in the file's. A
    block aims at what makes up for the errors ``E`` of the columns before it: its weights plus
    ``E M[before, block] M[block, block]⁻¹``.
    """
    rows, cols = weight.shape
    integers = np.empty((rows, cols), np.int8)
    scales = np.empty((rows, cols // BLOCK_SIZE), np.float32)
    errors = np.empty((rows, cols), np.float32)
    for strip in range(0, cols, _STRIP):
        end = min(strip + _STRIP, cols)
        carried = errors[:, :strip] @ factor[:strip, strip:end]
        for start in range(strip, end, BLOCK_SIZE):
            here = slice(start, start + BLOCK_SIZE)
            corner = np.triu(factor[here, here]).astype(np.float64)
            behind = carried[:, start - strip : start - strip + BLOCK_SIZE]
            behind += errors[:, strip:start] @ factor[strip:start, here]
            targets = weight[:, here] + behind @ np.linalg.inv(corner).astype(np.float32)
            block = int(order[start]) // BLOCK_SIZE
            rounded, scale = integers[:, order[start] : order[start] + BLOCK_SIZE], scales[:, block]
            fit(targets, BlockCost.from_factor(corner), rounded, scale)
            errors[:, here] = weight[:, here] - rounded * scale[:, None]
    return integers, scales
