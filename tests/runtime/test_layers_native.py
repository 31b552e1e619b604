"""Decoder layers in one call, against the same operations one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cg.runtime.cache import KVCache, KVDType
from cg.runtime.config import GemmaConfig
from cg.runtime.dtypes import DType
from cg.runtime.errors import UsageError
from cg.runtime.layers_native import NativeLayers
from cg.runtime.models.gemma import Gemma
from cg.runtime.ops import Activations
from cg.runtime.ops_native import NativeOps
from cg.runtime.tensor import Floats, Tensor
from tests.runtime.test_ops_native import at_offset, isas, kinds, random_weight

HIDDEN, INNER, VOCAB, LAYERS, HEADS, HEAD_DIM = 64, 96, 40, 3, 4, 32


def make_model(ops: NativeOps, dtype: DType = DType.Q4, kv_heads: int = 2, size: float = 1.0) -> Gemma:
    """A model with random weights; ``size`` scales its norms."""
    config = GemmaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=1000,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        bos_token_id=2,
        eos_token_ids=(1,),
    )
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    norms = ["model.norm.weight"]
    width = HEADS * HEAD_DIM
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        norms += [f"{p}input_layernorm.weight", f"{p}post_attention_layernorm.weight"]
        shapes |= {
            f"{p}self_attn.q_proj.weight": (width, HIDDEN),
            f"{p}self_attn.k_proj.weight": (kv_heads * HEAD_DIM, HIDDEN),
            f"{p}self_attn.v_proj.weight": (kv_heads * HEAD_DIM, HIDDEN),
            f"{p}self_attn.o_proj.weight": (HIDDEN, width),
            f"{p}mlp.gate_proj.weight": (INNER, HIDDEN),
            f"{p}mlp.up_proj.weight": (INNER, HIDDEN),
            f"{p}mlp.down_proj.weight": (HIDDEN, INNER),
        }
    rng = np.random.default_rng(7)
    tensors = {name: random_weight(dtype, *shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    for name in norms:
        values = (size * rng.standard_normal(HIDDEN, dtype=np.float32)).view(np.uint8)
        tensors[name] = Tensor(name, DType.F32, (HIDDEN,), at_offset(values, 0))
    return Gemma(config, tensors, ops)


def one_by_one(model: Gemma, x: Floats, cache: KVCache, last_only: bool) -> Floats:
    for i in range(LAYERS):
        x = model.layer(i, x, cache, len(cache), last_only=last_only and i == LAYERS - 1)
    return x


def fused(model: Gemma, x: Floats, cache: KVCache, last_only: bool) -> Floats:
    layers = model.ops.fuse(model.layers, head_dim=HEAD_DIM, eps=1e-6, theta=10000.0)
    assert layers is not None
    x = x.copy()
    caches = [cache.room(i, len(cache), len(x)) for i in range(LAYERS)]
    layers.run(x, 0, caches, len(cache), last_only=last_only)
    return x[-1:] if last_only else x


def held(cache: KVCache, tokens: int) -> list[Any]:
    """The bits of all entries."""
    return [part[:, :tokens].tobytes() for i in range(LAYERS) for part in cache.room(i, tokens, 0)]


@isas
@kinds
@pytest.mark.parametrize("kv_dtype", ["f16", "f32"])
def test_the_same_to_the_bit(isa: str, dtype: DType, activations: Activations, kv_dtype: KVDType) -> None:
    for threads, kv_heads in ((1, 1), (2, 2), (3, 4)):
        model = make_model(NativeOps(threads=threads, activations=activations, isa=isa), dtype, kv_heads)
        for last_only in (False, True):
            caches = [KVCache(model.config, 300, kv_dtype) for _ in range(2)]
            for tokens in (1, 40, 2, 5, 9, 150, 1):
                ids = np.arange(tokens, dtype=np.int32) % VOCAB
                x = model.embed(ids)
                expected = one_by_one(model, x, caches[0], last_only)
                np.testing.assert_array_equal(fused(model, x, caches[1], last_only), expected)
                assert np.isfinite(expected).all()
                for cache in caches:
                    cache.commit(ids.tolist())
            assert held(caches[0], len(caches[0])) == held(caches[1], len(caches[1]))


@isas
def test_keys_beyond_f16_are_rounded_as_numpy_does(isa: str) -> None:
    model = make_model(NativeOps(threads=2, isa=isa), size=1e4)
    x = model.embed(np.arange(9, dtype=np.int32))
    caches = [KVCache(model.config, 20) for _ in range(2)]
    one_by_one(model, x, caches[0], False)
    fused(model, x, caches[1], False)
    keys, values = caches[0].room(0, 9, 0)
    assert np.isinf(keys).any() or np.isinf(values).any()
    for ours, numpys in zip(caches[1].room(0, 9, 0), (keys, values), strict=True):
        assert ours[:, :9].tobytes() == numpys[:, :9].tobytes()


def recorded_calls(monkeypatch: pytest.MonkeyPatch, interrupted_at: int | None = None) -> list[Any]:
    """Of every call from now on the tokens, the first layer and how many layers."""
    calls: list[Any] = []

    def run(
        self: NativeLayers, x: Floats, first: int, caches: Any, position: int, *, last_only: bool
    ) -> None:
        calls.append((len(x), first, len(caches)))
        if first == interrupted_at:
            raise KeyboardInterrupt
        original(self, x, first, caches, position, last_only=last_only)

    original = NativeLayers.run
    monkeypatch.setattr(NativeLayers, "run", run)
    return calls


def test_the_forward_pass_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, passes = recorded_calls(monkeypatch), ((30, True), (1, True), (16, False), (17, False))

    def logits() -> list[Floats]:
        model = make_model(NativeOps(threads=2))
        cache, found = KVCache(model.config, 300), []
        for tokens, last_only in passes:
            ids = np.arange(tokens, dtype=np.int32)
            found.append(model.forward(ids, cache, last_only=last_only))
            cache.commit(ids.tolist())
        return found

    ours = logits()
    one_layer_a_call = [[(tokens, i, 1) for i in range(LAYERS)] for tokens in (30, 17)]
    assert calls == [*one_layer_a_call[0], (1, 0, LAYERS), (16, 0, LAYERS), *one_layer_a_call[1]]
    monkeypatch.setattr(NativeOps, "fuse", lambda *_args, **_more: None)
    for mine, expected in zip(ours, logits(), strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert len(calls) == 2 * LAYERS + 2


def test_a_long_prompt_can_be_interrupted_between_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded_calls(monkeypatch, interrupted_at=1)
    model = make_model(NativeOps(threads=1))
    cache = KVCache(model.config, 300)
    with pytest.raises(KeyboardInterrupt):
        model.forward(np.arange(40, dtype=np.int32), cache)
    assert calls == [(40, 0, 1), (40, 1, 1)]
    assert len(cache) == 0


def test_bad_arguments_are_refused() -> None:
    model = make_model(NativeOps(threads=1))
    layers = model.ops.fuse(model.layers, head_dim=HEAD_DIM, eps=1e-6, theta=10000.0)
    assert layers is not None
    x = model.embed(np.arange(3, dtype=np.int32))
    cache = KVCache(model.config, 10)
    caches = [cache.room(i, 0, 3) for i in range(LAYERS)]

    def refused(match: str, x: Any = x, first: int = 0, caches: Any = caches, position: int = 0) -> None:
        with pytest.raises(UsageError, match=match):
            layers.run(x, first, caches, position, last_only=False)

    refused(r"x is \[3, 32\]", x=np.ascontiguousarray(x[:, :32]))
    refused(r"x is \[0, 64\]", x=x[:0])
    refused("contiguous, writable float32", x=x.astype(np.float64))
    refused("contiguous, writable float32", x=np.repeat(x, 2, axis=1)[:, ::2])
    frozen = x.copy()
    frozen.flags.writeable = False
    refused("contiguous, writable float32", x=frozen)
    refused("3 from 1 on, of 3", first=1)
    refused("3 from -1 on", first=-1)
    refused("3 tokens at 8 do not fit a cache of 10", position=8)
    refused("3 tokens at -1", position=-1)
    keys, values = caches[0]
    refused("not \\[2, capacity, 32\\]", caches=[(keys[:1], values[:1])])
    refused("not \\[2, capacity, 32\\]", caches=[(keys, values[:, :9])])
    refused("keys are float64", caches=[(keys.astype(np.float64), values)])
    apart = np.repeat(keys, 2, axis=2)[..., ::2]
    refused("next to each other", caches=[(apart, apart)])
    frozen_keys = keys.copy()
    frozen_keys.flags.writeable = False
    refused("the caches writable", caches=[(frozen_keys, values)])


def test_weights_that_do_not_fit_are_named() -> None:
    ops = NativeOps(threads=1)
    good = make_model(ops).layers
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for name in names:
        other: dict[str, Any] = {name: Tensor(name, DType.F32, (32, 32), np.zeros(4096, np.uint8))}
        with pytest.raises(UsageError, match=name):
            ops.fuse([good[0], replace(good[1], **other)], head_dim=HEAD_DIM, eps=0.0, theta=1e4)
    bad = replace(good[0], post_attention_layernorm=np.ones(32, np.float32))
    with pytest.raises(UsageError, match=r"a norm is \[32\]"):
        ops.fuse([bad], head_dim=HEAD_DIM, eps=0.0, theta=1e4)
    with pytest.raises(UsageError, match="no layers"):
        ops.fuse([], head_dim=HEAD_DIM, eps=0.0, theta=1e4)
    for head_dim in (0, 1, 3, 48):
        with pytest.raises(UsageError, match=f"heads of {head_dim}"):
            ops.fuse(good, head_dim=head_dim, eps=0.0, theta=1e4)
