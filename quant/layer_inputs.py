"""The inputs of a layer's matrices, caught on their way: mean products for GPTQ, or their diagonal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.quant.rounding.factor import add_products
from cg.runtime.ops import Ids, Ops
from cg.runtime.ops_reference import rms_norm
from cg.runtime.tensor import Floats, Tensor

__all__ = ["CaughtInputsError", "InputCatcher"]


class CaughtInputsError(Exception):
    """Ends a forward pass once the inputs that it was run for are known."""


class InputCatcher:
    """Operations that pass everything on to a backend, and on the way add up the inputs of one matrix.

    A call with the watched matrix raises :class:`CaughtInputsError`: nothing after it is computed.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self.name, self.isa = ops.name, ops.isa
        self.threads, self.activations = ops.threads, ops.activations
        self._watched = ""
        self._products: Floats = np.zeros((0, 0), np.float32)

    def watch(self, name: str, products: Floats) -> None:
        """From now on add inputs ``x [T, cols]`` of the matrix ``name`` to ``products``.

        ``[cols, cols]`` gets ``xᵀ x`` in its upper triangle, ``[cols]`` the sums of squares.
        """
        self._watched, self._products = name, products

    def embed(self, table: Tensor, ids: Ids, scale: float) -> Floats:
        return self._ops.embed(table, ids, scale)

    def matmul(self, x: Floats, weight: Tensor, residual: Floats | None = None) -> Floats:
        self._catch(x, (weight,))
        return self._ops.matmul(x, weight, residual)

    def norm_matmul(self, x: Floats, norm: Floats, eps: float, weights: Sequence[Tensor]) -> list[Floats]:
        self._catch_normed(x, norm, eps, weights)
        return self._ops.norm_matmul(x, norm, eps, weights)

    def norm_geglu(self, x: Floats, norm: Floats, eps: float, gate: Tensor, up: Tensor) -> Floats:
        self._catch_normed(x, norm, eps, (gate, up))
        return self._ops.norm_geglu(x, norm, eps, gate, up)

    def rope(self, x: Floats, position: int, theta: float) -> None:
        self._ops.rope(x, position, theta)

    def attention(
        self, q: Floats, keys: NDArray[Any], values: NDArray[Any], position: int, scale: float
    ) -> Floats:
        return self._ops.attention(q, keys, values, position, scale)

    def _catch_normed(self, x: Floats, norm: Floats, eps: float, weights: Sequence[Tensor]) -> None:
        if self._is_watched(weights):
            self._catch(rms_norm(x, norm, eps), weights)

    def _catch(self, x: Floats, weights: Sequence[Tensor]) -> None:
        if not self._is_watched(weights):
            return
        if self._products.ndim == 2:
            add_products(self._products, x)
        else:
            self._products += np.einsum("tc,tc->c", x, x)
        raise CaughtInputsError

    def _is_watched(self, weights: Collection[Tensor]) -> bool:
        return any(weight.name == self._watched for weight in weights)
