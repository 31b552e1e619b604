"""Search the scale of every block: the best of a grid by squared error, refitted by least squares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cg.quant.rounding.fit import BlockCost, Fitter
from cg.runtime.dtypes import BLOCK_SIZE
from cg.runtime.tensor import Floats

__all__ = ["search"]


def search(
    weight: Floats, importance: NDArray[np.floating] | None, fit: Fitter
) -> tuple[NDArray[np.int8], Floats]:
    """Round ``weight [rows, cols]``: integers of the same shape, scales ``[rows, cols / 32]``.

    ``importance [cols]`` is what a squared error costs in each column, above zero; None: the same everywhere.
    """
    rows, cols = weight.shape
    integers = np.empty((rows, cols), np.int8)
    scales = np.empty((rows, cols // BLOCK_SIZE), np.float32)
    if importance is None:
        cost = BlockCost.from_weights(np.ones(BLOCK_SIZE))
        fit(weight.reshape(-1, BLOCK_SIZE), cost, integers.reshape(-1, BLOCK_SIZE), scales.reshape(-1))
        return integers, scales
    for block in range(cols // BLOCK_SIZE):
        at = slice(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
        fit(weight[:, at], BlockCost.from_weights(importance[at]), integers[:, at], scales[:, block])
    return integers, scales
