"""The ways to round a matrix whose inputs are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cg.quant.rounding.factor import block_order, factorize, mirror
from cg.quant.rounding.fit import Fitter
from cg.quant.rounding.gptq import gptq
from cg.quant.rounding.search import search
from cg.runtime.tensor import Floats

__all__ = ["Calibrated", "Round", "empty_products", "rounder"]

Calibrated = Literal["search", "gptq"]

Round = Callable[[Floats], tuple[NDArray[np.int8], Floats]]
"""Rows ``[n, cols]`` to integers ``[n, cols]`` and scales ``[n, cols / 32]``."""

_DAMPING = 0.01  # of the mean, added to every column's: as in GPTQ


def empty_products(method: Calibrated, cols: int) -> Floats:
    """Room for what a method wants to know of its inputs: sums of squares, or of all products."""
    return np.zeros((cols,) if method == "search" else (cols, cols), np.float32)


def rounder(products: Floats) -> Callable[[Fitter], Round]:
    """How to round the rows of a matrix, given the mean products of its inputs, which are used up.

    ``products`` is ``[cols]``, the mean squares, for ``search``, or ``[cols, cols]`` with its upper triangle
    for GPTQ.

    Raises:
        numpy.linalg.LinAlgError: the products are not finite.
    """
    if products.ndim == 1:
        mean = float(products.mean(dtype=np.float64)) or 1.0
        importance = products + np.float32(_DAMPING * mean)
        return lambda fit: lambda weight: search(weight, importance, fit)
    order = block_order(products.diagonal())
    mirror(products, upper_to_lower=True)
    factor = products[np.ix_(order, order)]
    factorize(factor, _DAMPING)
    return lambda fit: lambda weight: gptq(weight, factor, order, fit)
