"""Names of Gemma's tensors in Hugging Face's checkpoints and in GGUF files, both ways."""

from __future__ import annotations

import re

from cg.runtime.errors import CheckpointError

__all__ = ["EMBEDDING", "HEAD", "gguf_name", "hugging_face_name", "is_norm"]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
"""Only in checkpoints that spell the tied head out; GGUF's Gemma has none."""

_WHOLE = {EMBEDDING: "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_IN_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE_BACK = {theirs: ours for ours, theirs in _WHOLE.items()}
_IN_LAYER_BACK = {theirs: ours for ours, theirs in _IN_LAYER.items()}


def gguf_name(name: str) -> str:
    """The name in a GGUF file of a tensor of a Gemma model with tied embeddings.

    Raises:
        CheckpointError: Gemma has no such tensor.
    """
    if name in _WHOLE:
        return _WHOLE[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in _IN_LAYER:
        raise CheckpointError(f"{name} is no tensor of a Gemma model with tied embeddings")
    return f"blk.{match[1]}.{_IN_LAYER[match[2]]}.weight"


def hugging_face_name(name: str) -> str:
    """The way back.

    Raises:
        CheckpointError: llama.cpp's Gemma has no such tensor.
    """
    if name in _WHOLE_BACK:
        return _WHOLE_BACK[name]
    match = re.fullmatch(r"blk\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in _IN_LAYER_BACK:
        raise CheckpointError(f"{name[:200]!r} is no tensor of a Gemma model as llama.cpp names them")
    return f"model.layers.{match[1]}.{_IN_LAYER_BACK[match[2]]}.weight"


def is_norm(name: str) -> bool:
    """Whether a tensor, by Hugging Face's name, is the weight of an RMSNorm."""
    return name.endswith("norm.weight")
