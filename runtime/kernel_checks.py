"""What the compiled kernels demand of their arguments, in words: they trust them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.runtime.decoder_layer import DecoderLayer
from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import CheckpointError, UsageError
from cg.runtime.tensor import Floats, Tensor

__all__ = ["check_cache", "check_layers", "check_product", "check_weight"]

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


def check_cache(
    name: str,
    keys: NDArray[Any],
    values: NDArray[Any],
    entry: tuple[int, int],
    position: int,
    tokens: int,
) -> None:
    """Whether a layer's cache has entries ``(kv_heads, head_dim)`` and room for tokens at a position.

    Raises:
        UsageError: it has not, or is not stored as the kernels read it.
    """
    if keys.shape != values.shape or keys.ndim != 3 or (keys.shape[0], keys.shape[2]) != entry:
        raise UsageError(
            f"{name}: keys {list(keys.shape)} and values {list(values.shape)} are not "
            f"[{entry[0]}, capacity, {entry[1]}]"
        )
    if position < 0 or position + tokens > keys.shape[1]:
        raise UsageError(f"{name}: {tokens} tokens at {position} do not fit a cache of {keys.shape[1]}")
    if keys.dtype != values.dtype or keys.dtype not in (np.float16, np.float32):
        raise UsageError(f"{name}: keys are {keys.dtype}, values {values.dtype}: use float16 or float32")
    if not keys.strides[2] == values.strides[2] == keys.itemsize:
        raise UsageError(f"{name}: the elements of a cache entry must lie next to each other")


def check_layers(layers: Sequence[DecoderLayer], head_dim: int) -> tuple[int, int]:
    """Whether matrices and norms of the layers fit each other; their hidden size and number of kv heads.

    Raises:
        UsageError: they do not, or there are none.
    """
    if not layers:
        raise UsageError("there are no layers")
    (queries, hidden), keys = layers[0].q_proj.shape, layers[0].k_proj.shape[0]
    if head_dim < 2 or head_dim % 2 or keys < 1 or keys % head_dim or queries % keys:
        raise UsageError(f"layers: {queries} queries and {keys} keys do not make heads of {head_dim}")
    for layer in layers:
        inner = layer.gate_proj.shape[0]
        expected = {
            layer.q_proj: (queries, hidden),
            layer.k_proj: (keys, hidden),
            layer.v_proj: (keys, hidden),
            layer.o_proj: (hidden, queries),
            layer.gate_proj: (inner, hidden),
            layer.up_proj: (inner, hidden),
            layer.down_proj: (hidden, inner),
        }
        for weight, shape in expected.items():
            if weight.shape != shape:
                raise UsageError(f"layers: {weight.name} is {list(weight.shape)}, not {list(shape)}")
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            if norm.shape != (hidden,):
                raise UsageError(f"layers: a norm is {list(norm.shape)}, not {[hidden]}")
    return hidden, keys // head_dim


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
