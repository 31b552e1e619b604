"""The operations on PyTorch (CPU): an independent opinion, and the fallback where nothing was compiled.

Weights are unpacked panel by panel at every use, so a model costs no private memory and a product costs
an unpacking: right for checking, slow for typing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from numpy.typing import NDArray

from cg.runtime.decoder_layer import DecoderLayer
from cg.runtime.errors import BackendError
from cg.runtime.ops import Activations, Ids
from cg.runtime.tensor import Floats, Tensor

__all__ = ["TorchOps"]

_PANEL_BYTES = 64 << 20  # float32 weights unpacked at a time


class TorchOps:
    """The torch backend: float32 activations only."""

    name = "torch"
    isa = f"torch {torch.__version__}"
    activations: Activations = "f32"

    def __init__(self, *, threads: int | None = None, activations: Activations = "f32") -> None:
        if activations != "f32":
            raise BackendError(
                "the torch backend has no int8 activations", hint="use native or numpy for int8"
            )
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()

    @torch.inference_mode()
    def embed(self, table: Tensor, ids: Ids, scale: float) -> Floats:
        rows = torch.cat([torch.from_numpy(table.dequantize(int(i), int(i) + 1)) for i in ids])
        return _array(rows * np.float32(scale).item())

    @torch.inference_mode()
    def matmul(self, x: Floats, weight: Tensor, residual: Floats | None = None) -> Floats:
        out = _product(torch.from_numpy(x), weight)
        return _array(out if residual is None else out + torch.from_numpy(residual))

    @torch.inference_mode()
    def norm_matmul(self, x: Floats, norm: Floats, eps: float, weights: Sequence[Tensor]) -> list[Floats]:
        h = _rms_norm(x, norm, eps)
        return [_array(_product(h, weight)) for weight in weights]

    @torch.inference_mode()
    def norm_geglu(self, x: Floats, norm: Floats, eps: float, gate: Tensor, up: Tensor) -> Floats:
        h = _rms_norm(x, norm, eps)
        return _array(F.gelu(_product(h, gate), approximate="tanh") * _product(h, up))

    @torch.inference_mode()
    def rope(self, x: Floats, position: int, theta: float) -> None:
        tokens, _, head_dim = x.shape
        inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.arange(position, position + tokens, dtype=torch.float64)[:, None, None] * inverse
        turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
        view = torch.from_numpy(x)
        first, second = view.chunk(2, dim=-1)
        turned = torch.complex(first, second) * turn
        view.copy_(torch.cat([turned.real, turned.imag], dim=-1))

    @torch.inference_mode()
    def attention(
        self, q: Floats, keys: NDArray[Any], values: NDArray[Any], position: int, scale: float
    ) -> Floats:
        tokens, heads, head_dim = q.shape
        depth = position + tokens
        k = torch.from_numpy(keys[:, :depth]).float()
        v = torch.from_numpy(values[:, :depth]).float()
        visible = torch.arange(depth)[None, :] <= torch.arange(position, depth)[:, None]
        mixed = F.scaled_dot_product_attention(
            torch.from_numpy(q).transpose(0, 1)[None],
            k.repeat_interleave(heads // len(k), dim=0)[None],
            v.repeat_interleave(heads // len(v), dim=0)[None],
            attn_mask=visible,
            scale=scale,
        )
        return _array(mixed[0].transpose(0, 1).reshape(tokens, heads * head_dim))

    def fuse(self, layers: Sequence[DecoderLayer], *, head_dim: int, eps: float, theta: float) -> None:
        return None  # one call for all would save nothing here


def _product(x: torch.Tensor, weight: Tensor) -> torch.Tensor:
    out = torch.empty(x.shape[0], weight.rows)
    panel = max(1, _PANEL_BYTES // (4 * weight.cols))
    for start in range(0, weight.rows, panel):
        rows = torch.from_numpy(weight.dequantize(start, min(start + panel, weight.rows)))
        out[:, start : start + len(rows)] = F.linear(x, rows)
    return out


def _rms_norm(x: Floats, weight: Floats, eps: float) -> torch.Tensor:
    return F.rms_norm(torch.from_numpy(x), (x.shape[-1],), torch.from_numpy(weight), eps)


def _array(tensor: torch.Tensor) -> Floats:
    result: Floats = tensor.contiguous().numpy()
    return result
