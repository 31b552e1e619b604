"""The ways to round matrices whose inputs were measured."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cg.quant.rounding.factor import add_products, block_order, factorize, mirror, solve
from cg.quant.rounding.fit import Fitter
from cg.quant.rounding.gptq import gptq
from cg.quant.rounding.search import search
from cg.quant.rounding.workers import Workers
from cg.runtime.tensor import Floats

__all__ = ["Calibrated", "GptqRounder", "Rounder", "SearchRounder", "new_rounder"]

Calibrated = Literal["search", "gptq"]

_DRIFT = 0.75  # how much of the drift is made up for: all of it would fit the calibration text too closely


class Rounder(Protocol):
    """Measures the inputs of matrices that read the same, then rounds those matrices."""

    def measure(self, x: Floats, workers: Workers) -> None:
        """Add inputs ``[T, cols]``."""
        ...

    def prepare(self, workers: Workers) -> None:
        """All inputs are known."""
        ...

    def round(self, weight: Floats, drift: Floats | None, fit: Fitter) -> tuple[NDArray[np.int8], Floats]:
        """Rows ``[n, cols]``, on the calling thread, to integers ``[n, cols]`` and scales ``[n, cols / 32]``.

        ``drift [n, cols]`` is, summed over tokens, ``W (x - x') x'ᵀ`` with the original's inputs ``x`` and
        the measured ones ``x'``.
        """
        ...


class SearchRounder:
    """Searches scales by squared error, weighted by the mean square of each column's inputs."""

    def __init__(self, cols: int, damping: float) -> None:
        self._damping = damping
        self._squares = np.zeros(cols, np.float64)
        self._importance = np.ones(cols, np.float64)

    def measure(self, x: Floats, workers: Workers) -> None:
        self._squares += np.einsum("tc,tc->c", x, x, dtype=np.float64)

    def prepare(self, workers: Workers) -> None:
        mean = float(self._squares.mean())
        if mean > 0:  # else inputs are always zero: any rounding is as good
            self._importance = self._squares / mean + self._damping

    def round(self, weight: Floats, drift: Floats | None, fit: Fitter) -> tuple[NDArray[np.int8], Floats]:
        return search(weight, self._importance, fit)


class GptqRounder:
    """GPTQ, aiming at the original's outputs although the inputs have drifted away from the original's.

    With ``W' = W + W (x - x') x'ᵀ (x' x'ᵀ)⁻¹`` in place of ``W`` the outputs would be as near as they can be.
    Source: GPTAQ (Li et al., arXiv 2504.02692); here three quarters of that correction are applied.
    """

    def __init__(self, cols: int, damping: float) -> None:
        self._damping = damping
        self._products = np.zeros((cols, cols), np.float32)
        self._order: NDArray[np.intp] = np.arange(cols)

    def measure(self, x: Floats, workers: Workers) -> None:
        add_products(self._products, x, workers)

    def prepare(self, workers: Workers) -> None:
        """Factorize the products, the blocks with the largest inputs first."""
        self._order = block_order(self._products.diagonal())
        mirror(self._products, upper_to_lower=True)
        self._products = self._products[np.ix_(self._order, self._order)]
        factorize(self._products, self._damping, workers)

    def round(self, weight: Floats, drift: Floats | None, fit: Fitter) -> tuple[NDArray[np.int8], Floats]:
        aim = weight[:, self._order]
        if drift is not None:
            correction = drift[:, self._order]
            solve(self._products, correction)
            aim += np.float32(_DRIFT) * correction
        return gptq(aim, self._products, self._order, fit)


def new_rounder(method: Calibrated, cols: int, damping: float) -> Rounder:
    """Of matrices with ``cols`` columns.

    ``damping`` times the columns' mean square is added to what an error costs, in every column.
    """
    return SearchRounder(cols, damping) if method == "search" else GptqRounder(cols, damping)
