"""Gemma 1 (CodeGemma 2b and 7b): the forward pass, in the order data flows.

Source: the model card's architecture as transformers' ``modeling_gemma.py`` defines it; RMSNorm weights
are stored as w and applied as (1 + w), the output head is the embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from cg.runtime.cache import KVCache, LayerStore
from cg.runtime.config import GemmaConfig
from cg.runtime.decoder_layer import DecoderLayer
from cg.runtime.dtypes import DType
from cg.runtime.errors import MissingTensorError
from cg.runtime.ops import FusedLayers, Ids, Ops
from cg.runtime.tensor import Floats, Tensor

__all__ = ["Gemma"]

_QUICK_TOKENS = 16
"""So few are through all layers before anyone who presses Ctrl-C would notice."""


class Gemma:
    """The model: weights and operations, no state. Hidden states are float32 ``[T, hidden_size]``."""

    def __init__(self, config: GemmaConfig, tensors: Mapping[str, Tensor], ops: Ops) -> None:
        """Look up and check every weight.

        Raises:
            MissingTensorError: a weight is absent, has another shape, or a type that cannot be used.
        """
        self.config = config
        self.ops = ops
        weights = _Weights(tensors)
        hidden, inner = config.hidden_size, config.intermediate_size
        q_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.embed_tokens = weights.matrix("model.embed_tokens", config.vocab_size, hidden)
        # Tied in every published Gemma; a checkpoint may still spell the head out.
        untied = "lm_head.weight" in tensors
        self.lm_head = weights.matrix("lm_head", config.vocab_size, hidden) if untied else self.embed_tokens
        self.norm = weights.norm("model.norm", hidden)
        self.layers = [
            DecoderLayer(
                input_layernorm=weights.norm(f"{p}.input_layernorm", hidden),
                q_proj=weights.matrix(f"{p}.self_attn.q_proj", q_width, hidden),
                k_proj=weights.matrix(f"{p}.self_attn.k_proj", kv_width, hidden),
                v_proj=weights.matrix(f"{p}.self_attn.v_proj", kv_width, hidden),
                o_proj=weights.matrix(f"{p}.self_attn.o_proj", hidden, q_width),
                post_attention_layernorm=weights.norm(f"{p}.post_attention_layernorm", hidden),
                gate_proj=weights.matrix(f"{p}.mlp.gate_proj", inner, hidden),
                up_proj=weights.matrix(f"{p}.mlp.up_proj", inner, hidden),
                down_proj=weights.matrix(f"{p}.mlp.down_proj", hidden, inner),
            )
            for p in (f"model.layers.{i}" for i in range(config.num_hidden_layers))
        ]

    def matrices(self) -> list[Tensor]:
        """The weights that every token is multiplied with, in order: of all layers, and the output head."""
        fields = (getattr(layer, f.name) for layer in self.layers for f in dataclasses.fields(layer))
        return [*(weight for weight in fields if isinstance(weight, Tensor)), self.lm_head]

    def forward(self, ids: Ids, cache: KVCache, *, last_only: bool = True) -> Floats:
        """Run ``ids`` at the end of the cache; logits ``[1, vocab]`` of the last, or of all ``[T, vocab]``.

        Writes the cache but does not commit the ids to it.
        """
        x, position, count = self.embed(ids), len(cache), len(self.layers)
        step = count if self._fused is not None and len(ids) <= _QUICK_TOKENS else 1
        for i in range(0, count, step):
            only = last_only and i + step == count
            if self._fused is None:
                x = self.layer(i, x, cache, position, last_only=only)
                continue
            caches = [cache.room(j, position, len(ids)) for j in range(i, i + step)]
            self._fused.run(x, i, caches, position, last_only=only)
            x = x[-1:] if only else x
        return self.logits(x)

    @cached_property
    def _fused(self) -> FusedLayers | None:
        config = self.config
        return self.ops.fuse(
            self.layers, head_dim=config.head_dim, eps=config.rms_norm_eps, theta=config.rope_theta
        )

    def embed(self, ids: Ids) -> Floats:
        """Scaled embeddings of ``ids``."""
        return self.ops.embed(self.embed_tokens, ids, self.config.embedding_scale)

    def layer(
        self, i: int, x: Floats, cache: LayerStore, position: int, *, last_only: bool = False
    ) -> Floats:
        """Layer ``i`` over tokens at ``position`` and after, whose earlier keys and values are in the cache.

        With ``last_only`` just the last token's output: its neighbours need no more than keys and values.
        """
        return self.feed_forward(i, self.attend(i, x, cache, position, last_only=last_only))

    def attend(
        self, i: int, x: Floats, cache: LayerStore, position: int, *, last_only: bool = False
    ) -> Floats:
        """The first half of layer ``i``: attention, added to what it reads."""
        ops, w, eps = self.ops, self.layers[i], self.config.rms_norm_eps
        head_dim, theta = self.config.head_dim, self.config.rope_theta

        if last_only:
            k, v = ops.norm_matmul(x, w.input_layernorm, eps, (w.k_proj, w.v_proj))
            x, first = x[-1:], len(x) - 1
            (q,) = ops.norm_matmul(x, w.input_layernorm, eps, (w.q_proj,))
        else:
            q, k, v = ops.norm_matmul(x, w.input_layernorm, eps, (w.q_proj, w.k_proj, w.v_proj))
            first = 0
        q = q.reshape(len(q), -1, head_dim)  # [T, heads, head_dim]
        k = k.reshape(len(k), -1, head_dim)  # [T, kv_heads, head_dim]
        v = v.reshape(len(v), -1, head_dim)
        ops.rope(k, position, theta)
        ops.rope(q, position + first, theta)
        keys, values = cache.store(i, position, k, v)
        h = ops.attention(q, keys, values, position + first, head_dim**-0.5)
        return ops.matmul(h, w.o_proj, residual=x)

    def feed_forward(self, i: int, x: Floats) -> Floats:
        """The second half of layer ``i``: its MLP, added to what it reads."""
        ops, w, eps = self.ops, self.layers[i], self.config.rms_norm_eps
        h = ops.norm_geglu(x, w.post_attention_layernorm, eps, w.gate_proj, w.up_proj)  # [T, intermediate]
        return ops.matmul(h, w.down_proj, residual=x)

    def logits(self, x: Floats) -> Floats:
        """Final norm and output head: ``[T, vocab_size]``."""
        return self.ops.norm_matmul(x, self.norm, self.config.rms_norm_eps, (self.lm_head,))[0]


class _Weights:
    """Checked access to a checkpoint's tensors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def matrix(self, name: str, rows: int, cols: int) -> Tensor:
        tensor = self._get(f"{name}.weight", (rows, cols))
        if not (tensor.dtype.is_float or tensor.dtype.is_quantized):
            raise MissingTensorError(
                f"{tensor.name} is stored as {tensor.dtype.value}, which cannot be computed with"
            )
        return tensor

    def norm(self, name: str, size: int) -> Floats:
        tensor = self._get(f"{name}.weight", (size,))
        if tensor.dtype not in (DType.F32, DType.F16, DType.BF16):
            raise MissingTensorError(
                f"{tensor.name} is stored as {tensor.dtype.value}; norms must stay floats"
            )
        return tensor.dequantize().reshape(size) + np.float32(1)

    def _get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise MissingTensorError(f"the checkpoint has no tensor {name}", hint="is the download complete?")
        # Jlama writes vectors as [1, n].
        if tensor.shape != shape and tensor.shape != (1, *shape):
            raise MissingTensorError(
                f"{name} has shape {list(tensor.shape)}, config.json asks for {list(shape)}"
            )
        return tensor
