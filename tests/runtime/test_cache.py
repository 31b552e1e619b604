"""The key-value cache: growth, reuse, room."""

from __future__ import annotations

import numpy as np
import pytest

from cg.runtime.cache import KVCache
from cg.runtime.config import GemmaConfig
from cg.runtime.errors import ContextLengthError

HEADS, HEAD_DIM = 2, 4
CONFIG = GemmaConfig.from_json(
    dict(
        model_type="gemma",
        vocab_size=9,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_DIM,
    )
)


def entries(tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, HEADS, HEAD_DIM), np.float32)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_growing_keeps_what_was_stored(dtype: str) -> None:
    cache = KVCache(CONFIG, 2000, dtype)  # type: ignore[arg-type]
    stored = []
    for seed, tokens in enumerate([1, 254, 1, 1, 700, 3]):  # crosses 256, 512 and 957
        keys = entries(tokens, seed)
        stored.append(keys)
        for layer in range(2):
            k, v = cache.store(layer, len(cache), keys + layer, -keys)
        cache.commit([1] * tokens)
    expected = np.concatenate(stored).transpose(1, 0, 2).astype(k.dtype)
    assert k.shape[1] < 2000
    np.testing.assert_array_equal(v[:, : len(cache)], -expected)
    k0, _ = cache.store(0, len(cache), entries(1, 9), entries(1, 9))
    np.testing.assert_array_equal(k0[:, : len(cache)], expected)


def test_memory_is_bounded_by_the_capacity() -> None:
    cache = KVCache(CONFIG, 300)
    cache.store(0, 0, entries(257, 0), entries(257, 0))
    cache.commit([1] * 257)
    k, _ = cache.store(0, 257, entries(43, 1), entries(43, 1))
    assert k.shape[1] == 300


def test_what_is_not_committed_is_not_held() -> None:
    cache = KVCache(CONFIG, 300)
    cache.store(0, 0, entries(5, 0), entries(5, 0))
    assert len(cache) == 0
    keys = entries(2, 1)
    k, _ = cache.store(0, 0, keys, keys)
    np.testing.assert_array_equal(k[:, :2], keys.transpose(1, 0, 2).astype(np.float16))


def test_reuse_keeps_the_common_prefix() -> None:
    cache = KVCache(CONFIG, 10)
    cache.commit([1, 2, 3, 4])
    assert cache.common_prefix([1, 2, 9]) == 2
    assert cache.common_prefix([1, 2, 3, 4, 5]) == 4
    assert cache.common_prefix([]) == 0
    assert cache.reuse([1, 2, 9]) == 2
    assert cache.ids == [1, 2]


def test_room_is_checked() -> None:
    cache = KVCache(CONFIG, 4)
    cache.commit([1, 2, 3])
    cache.check_room(1)
    with pytest.raises(ContextLengthError, match="5 tokens do not fit the context of 4"):
        cache.check_room(2)
