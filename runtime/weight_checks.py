"""What a product demands of its weights and activations, in words: the kernels trust their arguments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import CheckpointError, UsageError
from cg.runtime.tensor import Floats, Tensor

__all__ = ["check_product", "check_weight"]

_COMPUTABLE = (DType.Q4, DType.I8, DType.BF16, DType.F16, DType.F32)


def check_product(name: str, x: Floats, norm: Floats | None, weights: Sequence[Tensor]) -> None:
    """Whether ``x`` and the norm fit weights that are known to be matrices; ``name`` is the operation.

    Raises:
        UsageError: they do not.
    """
    for weight in weights:
        if x.ndim != 2 or x.shape[1] != weight.shape[1]:
            raise UsageError(f"{name}: x is {list(x.shape)}, {weight.name} is {list(weight.shape)}")
    if norm is not None and norm.shape != x.shape[1:]:
        raise UsageError(f"{name}: x is {list(x.shape)}, the norm {list(norm.shape)}")


def check_weight(weight: Tensor) -> None:
    """Whether a weight is a matrix whose bytes and scales are as many as its shape says.

    Raises:
        CheckpointError: it is not, or nothing can be computed with its type or the type of its scales.
    """
    shape, scales = weight.shape, weight.scales
    if weight.dtype not in _COMPUTABLE:
        raise CheckpointError(
            f"{weight.name} is stored as {weight.dtype.value}, which cannot be computed with"
        )
    if len(shape) != 2:
        raise CheckpointError(f"{weight.name} has shape {list(shape)}: only matrices can be multiplied")
    rows, cols = shape
    if weight.data.size * 8 != rows * cols * weight.dtype.bits:
        raise CheckpointError(f"{weight.name}: {weight.data.size} bytes do not make {rows} x {cols} elements")
    if not weight.dtype.is_quantized:
        return
    if cols % BLOCK_SIZE:
        raise CheckpointError(f"{weight.name}: {cols} columns are no multiple of {BLOCK_SIZE}")
    if scales is None or scales.shape != (rows, cols // BLOCK_SIZE):
        raise CheckpointError(
            f"{weight.name}: its scales do not have the shape {rows} x {cols // BLOCK_SIZE}"
        )
    if scales.dtype != np.float32 and (scales.dtype != np.float16 or weight.dtype is not DType.Q4):
        raise CheckpointError(f"{weight.name}: {weight.dtype.value} with scales in {scales.dtype}")
