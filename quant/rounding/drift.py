"""How far the inputs of matrices have drifted from the original model's: what GPTQ makes up for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cg.quant.rounding.workers import Workers
from cg.runtime.ops import Ops
from cg.runtime.tensor import Floats, Tensor

__all__ = ["Drift"]

_STRIP = 1024  # rows of a sum of products that a thread adds to at a time


class Drift:
    """Sums ``W (x - x') x'ᵀ`` over tokens, for matrices ``W`` that read ``x`` and by now ``x'``.

    Where the matrices have more than half as many rows as columns, it is cheaper to sum ``(x - x') x'ᵀ`` for
    all of them together and to multiply that by their rows at the end.
    """

    def __init__(self, weights: Sequence[Tensor], ops: Ops, workers: Workers) -> None:
        """``weights`` ``[rows, cols]`` each; ``ops`` multiplies by them."""
        self._ops, self._workers = ops, workers
        cols = weights[0].cols
        self._joint: Floats | None = None
        self._sums: list[tuple[Tensor, Floats]] = []
        if 2 * sum(weight.rows for weight in weights) > cols:
            self._joint = np.zeros((cols, cols), np.float32)
        else:
            self._sums = [(weight, np.zeros(weight.shape, np.float32)) for weight in weights]

    def add(self, wanted: Floats, x: Floats) -> None:
        """Add tokens: inputs of the original model and by now, ``[T, cols]`` both."""
        missing = wanted - x
        if self._joint is not None:
            self._add_product(self._joint, missing, x)
        for weight, sums in self._sums:
            self._add_product(sums, self._ops.matmul(missing, weight), x)

    def of(self, name: str, start: int, rows: Floats) -> Floats:
        """The sum ``[n, cols]`` for ``rows [n, cols]``, those from ``start`` on of the matrix ``name``."""
        if self._joint is not None:
            return rows @ self._joint
        return next(sums[start : start + len(rows)] for weight, sums in self._sums if weight.name == name)

    def _add_product(self, sums: Floats, y: Floats, x: Floats) -> None:
        """Add ``yᵀ x``."""

        def add(start: int) -> None:
            sums[start : start + _STRIP] += y[:, start : start + _STRIP].T @ x

        self._workers.each(add, range(0, len(sums), _STRIP))
