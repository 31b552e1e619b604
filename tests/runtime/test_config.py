"""config.json: what is accepted, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cg.runtime.config import GemmaConfig
from cg.runtime.errors import CheckpointError

BASE: dict[str, Any] = dict(
    model_type="gemma",
    vocab_size=256000,
    hidden_size=2048,
    intermediate_size=16384,
    num_hidden_layers=18,
    num_attention_heads=8,
    num_key_value_heads=1,
    head_dim=256,
    hidden_act="gelu",
    max_position_embeddings=8192,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    bos_token_id=2,
    eos_token_id=1,
)


def test_codegemma_2b() -> None:
    config = GemmaConfig.from_json(BASE)
    assert config.embedding_scale == pytest.approx(45.254834)
    assert config.kv_bytes_per_token == 18 * 1024
    assert config.eos_token_ids == (1,)


def test_codegemma_7b_cache_size() -> None:
    shape = dict(num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=16, hidden_size=3072)
    assert GemmaConfig.from_json(BASE | shape).kv_bytes_per_token == 448 * 1024


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"eos_token_id": [1, 107]}, lambda c: c.eos_token_ids == (1, 107)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, lambda c: c.rope_theta == 5e5),
        ({"hidden_activation": "gelu_pytorch_tanh"}, lambda c: c.head_dim == 256),
        ({"hidden_activation": None, "rope_scaling": None}, lambda c: c.rope_theta == 10000.0),
    ],
)
def test_other_spellings(change: dict[str, Any], check: Any) -> None:
    assert check(GemmaConfig.from_json(BASE | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma2"}, "gemma2"),
        ({"hidden_act": "silu"}, "silu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "linear"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "2048"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"head_dim": 7}, "odd"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"eos_token_id": []}, "eos_token_id"),
    ],
)
def test_impossible_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        GemmaConfig.from_json(BASE | change)


def test_a_missing_size_is_named() -> None:
    raw = dict(BASE)
    del raw["vocab_size"]
    with pytest.raises(CheckpointError, match="vocab_size is missing"):
        GemmaConfig.from_json(raw)
