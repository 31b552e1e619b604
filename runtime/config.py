"""A Gemma checkpoint's config.json, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cg.runtime.errors import CheckpointError

__all__ = ["GemmaConfig"]

_TANH_GELU = {"gelu", "gelu_pytorch_tanh"}
_DEFAULT_HEAD_DIM = 256  # what transformers' GemmaConfig assumes when the key is absent


@dataclass(frozen=True, slots=True)
class GemmaConfig:
    """Shapes and constants under their Hugging Face names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    bos_token_id: int
    eos_token_ids: tuple[int, ...]

    @property
    def embedding_scale(self) -> float:
        """The factor on embeddings: sqrt(hidden_size), used in float32 on every backend.

        transformers in float32 and llama.cpp do the same; bf16 stacks and Jlama round it to bf16
        (45.25 instead of 45.2548 for 2b), which the first RMSNorm all but cancels.
        """
        return math.sqrt(self.hidden_size)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of an f16 key-value cache per token."""
        return 2 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> GemmaConfig:
        """Read and check config.json as transformers and Jlama write it.

        ``hidden_act`` may say ``gelu`` or ``gelu_pytorch_tanh``: the model needs the tanh form in both cases.

        Raises:
            CheckpointError: another architecture, or a value that is missing or impossible.
        """
        if raw.get("model_type") != "gemma":
            raise CheckpointError(
                f"config.json: model_type is {raw.get('model_type')!r}, not 'gemma'",
                hint="cg runs CodeGemma and other first-generation Gemma models",
            )
        activation = raw.get("hidden_activation") or raw.get("hidden_act") or "gelu_pytorch_tanh"
        if activation not in _TANH_GELU:
            raise CheckpointError(f"config.json: activation {activation!r} is not Gemma's tanh GELU")
        if raw.get("attention_bias"):
            raise CheckpointError("config.json: attention_bias is true, Gemma has no biases")
        rope = raw.get("rope_parameters") or {}
        scaling = raw.get("rope_scaling") or {}
        kind = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
        if kind != "default":
            raise CheckpointError(f"config.json: rope scaling {kind!r} is not supported")
        heads = _positive_int(raw, "num_attention_heads")
        config = cls(
            vocab_size=_positive_int(raw, "vocab_size"),
            hidden_size=_positive_int(raw, "hidden_size"),
            intermediate_size=_positive_int(raw, "intermediate_size"),
            num_hidden_layers=_positive_int(raw, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=_positive_int(raw, "num_key_value_heads", heads),
            head_dim=_positive_int(raw, "head_dim", _DEFAULT_HEAD_DIM),
            max_position_embeddings=_positive_int(raw, "max_position_embeddings", 8192),
            rms_norm_eps=_positive_float(raw, "rms_norm_eps", 1e-6),
            rope_theta=_positive_float({**raw, **rope}, "rope_theta", 10000.0),
            bos_token_id=_token_ids(raw, "bos_token_id", 2)[0],
            eos_token_ids=_token_ids(raw, "eos_token_id", 1),
        )
        if config.num_attention_heads % config.num_key_value_heads:
            raise CheckpointError("config.json: num_attention_heads is not a multiple of num_key_value_heads")
        if config.head_dim % 2:
            raise CheckpointError(
                f"config.json: head_dim {config.head_dim} is odd, rotary embedding needs pairs"
            )
        return config


def _positive_int(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key, default)
    if value is None and key not in raw:
        raise CheckpointError(f"config.json: {key} is missing")
    if value is None and default is not None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise CheckpointError(f"config.json: {key} is {value!r}, expected a positive integer")
    return value


def _positive_float(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise CheckpointError(f"config.json: {key} is {value!r}, expected a positive number")
    return float(value)


def _token_ids(raw: Mapping[str, Any], key: str, default: int) -> tuple[int, ...]:
    value = raw.get(key, default)
    ids = value if isinstance(value, list) and value else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise CheckpointError(f"config.json: {key} is {value!r}, expected a token id")
    return tuple(ids)
