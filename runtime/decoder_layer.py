"""The weights of one decoder layer."""

from __future__ import annotations

from dataclasses import dataclass

from cg.runtime.tensor import Floats, Tensor

__all__ = ["DecoderLayer"]


@dataclass(frozen=True, slots=True, eq=False)
class DecoderLayer:
    """One layer's weights, matrices as ``[out, in]`` views of the file, norms as float32 ``1 + w``."""

    input_layernorm: Floats
    q_proj: Tensor
    k_proj: Tensor
    v_proj: Tensor
    o_proj: Tensor
    post_attention_layernorm: Floats
    gate_proj: Tensor
    up_proj: Tensor
    down_proj: Tensor
