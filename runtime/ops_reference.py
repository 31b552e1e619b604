"""The operations in plain numpy: slow, short, and the oracle for every other backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.runtime.decoder_layer import DecoderLayer
from cg.runtime.dtypes import BLOCK_SIZE
from cg.runtime.ops import Activations, Ids
from cg.runtime.tensor import Floats, Tensor

__all__ = ["ReferenceOps", "fake_quantize_int8", "geglu", "rms_norm"]

_PANEL_BYTES = 64 << 20  # float32 weights unpacked at a time


class ReferenceOps:
    """The numpy backend."""

    name = "numpy"
    isa = f"numpy {np.__version__}"
    threads = 1

    def __init__(self, *, activations: Activations = "f32") -> None:
        self.activations: Activations = activations

    def embed(self, table: Tensor, ids: Ids, scale: float) -> Floats:
        rows = [table.dequantize(int(i), int(i) + 1) for i in ids]
        return np.concatenate(rows) * np.float32(scale)

    def matmul(self, x: Floats, weight: Tensor, residual: Floats | None = None) -> Floats:
        if weight.dtype.is_quantized and self.activations == "int8":
            x = fake_quantize_int8(x)
        out = np.empty((x.shape[0], weight.rows), np.float32)
        panel = max(1, _PANEL_BYTES // (4 * weight.cols))
        for start in range(0, weight.rows, panel):
            stop = min(start + panel, weight.rows)
            out[:, start:stop] = x @ weight.dequantize(start, stop).T
        return out if residual is None else residual + out

    def norm_matmul(self, x: Floats, norm: Floats, eps: float, weights: Sequence[Tensor]) -> list[Floats]:
        h = rms_norm(x, norm, eps)
        return [self.matmul(h, weight) for weight in weights]

    def norm_geglu(self, x: Floats, norm: Floats, eps: float, gate: Tensor, up: Tensor) -> Floats:
        h = rms_norm(x, norm, eps)
        return geglu(self.matmul(h, gate), self.matmul(h, up))

    def rope(self, x: Floats, position: int, theta: float) -> None:
        tokens, _, head_dim = x.shape
        inverse = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        angle = (position + np.arange(tokens))[:, None, None] * inverse
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        first, second = np.split(x.copy(), 2, axis=-1)
        x[..., : head_dim // 2] = first * cos - second * sin
        x[..., head_dim // 2 :] = second * cos + first * sin

    def attention(
        self, q: Floats, keys: NDArray[Any], values: NDArray[Any], position: int, scale: float
    ) -> Floats:
        tokens, heads, head_dim = q.shape
        kv_heads, depth = keys.shape[0], position + tokens
        k = keys[:, :depth].astype(np.float32)
        v = values[:, :depth].astype(np.float32)
        # Query heads that share a kv head stand next to each other: [kv_heads, group * T, head_dim].
        grouped = q.transpose(1, 0, 2).reshape(kv_heads, -1, head_dim)
        scores = (grouped @ k.transpose(0, 2, 1)) * np.float32(scale)
        scores = scores.reshape(heads, tokens, depth)
        hidden = np.arange(depth)[None, :] > position + np.arange(tokens)[:, None]
        scores[:, hidden] = -np.inf
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities = (scores / scores.sum(axis=-1, keepdims=True)).reshape(kv_heads, -1, depth)
        mixed = (probabilities @ v).reshape(heads, tokens, head_dim)
        joined: Floats = np.ascontiguousarray(mixed.transpose(1, 0, 2)).reshape(tokens, -1)
        return joined

    def fuse(self, layers: Sequence[DecoderLayer], *, head_dim: int, eps: float, theta: float) -> None:
        return None  # one call for all would save nothing here


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """``x / sqrt(mean(x²) + eps) * weight`` over the last dimension."""
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
    normed: Floats = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return normed


def geglu(gate: Floats, up: Floats) -> Floats:
    """``gelu_tanh(gate) * up``, element by element."""
    inner = np.float32(0.7978845608028654) * (gate + np.float32(0.044715) * gate**3)
    result: Floats = np.float32(0.5) * gate * (1 + np.tanh(inner)) * up
    return result


def fake_quantize_int8(x: Floats) -> Floats:
    """Activations as the int8 kernels see them: per block of 32, ``round(x * 127 / amax) * amax / 127``.

    Rounds to nearest, ties to even. A block whose inverse scale overflows is as good as zero; one with NaN
    or infinity in it becomes NaN, at least where it was not finite.
    """
    blocks = x.reshape(-1, BLOCK_SIZE)
    amax = np.abs(blocks).max(axis=1, keepdims=True)
    ordinary = ~(amax <= np.float32(4e-37))  # 127 / FLT_MAX, with a margin
    inverse = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=ordinary)
    with np.errstate(invalid="ignore"):
        faked: Floats = np.rint(blocks * inverse) * (amax / np.float32(127))
    return faked.reshape(x.shape)
