"""The demo model in torch: a small Gemma with Hugging Face parameter names, for training and evaluation.

`GemmaForCausalLM` of transformers computes the same; here the state dict is the published
`model.safetensors`, and nothing stands in the way of compiling the whole.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

Cache = list[tuple[Tensor, Tensor]]
"""Per layer the keys and values so far, each [batch, kv heads, positions, head_dim]."""


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """The fields of config.json that vary; the defaults are the shipped model (5.54 M parameters)."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 6
    intermediate_size: int = 768
    num_attention_heads: int = 4
    num_key_value_heads: int = 1
    head_dim: int = 64
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @classmethod
    def read(cls, folder: Path) -> DemoConfig:
        """The configuration of a model folder."""
        raw = json.loads((folder / "config.json").read_text("utf-8"))
        return cls(**{name: raw[name] for name in cls.__dataclass_fields__})

    def to_json(self) -> str:
        """config.json as transformers and Jlama read it."""
        fixed = {
            "architectures": ["GemmaForCausalLM"],
            "model_type": "gemma",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        }
        return json.dumps(fixed | asdict(self), indent=2, sort_keys=True) + "\n"


class RMSNorm(nn.Module):
    """x / rms(x) · (1 + weight), in f32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), 1 + self.weight, self.eps)


class Attention(nn.Module):
    """Causal multi-query attention with rotary positions (half-split layout)."""

    def __init__(self, c: DemoConfig) -> None:
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output [batch, length, hidden], and all keys and values, those of `past` first."""
        batch, length, _ = x.shape
        heads = (batch, length, -1, self.c.head_dim)
        q = _rotate(self.q_proj(x).view(heads).transpose(1, 2), rotary)
        k = _rotate(self.k_proj(x).view(heads).transpose(1, 2), rotary)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        group = self.c.num_attention_heads // self.c.num_key_value_heads
        every_k, every_v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = functional.scaled_dot_product_attention(q, every_k, every_v, is_causal=length > 1)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1)), k, v


class MLP(nn.Module):
    """GeGLU with the tanh form of GELU."""

    def __init__(self, c: DemoConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down_proj(
            functional.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x)
        )
        return down


class Layer(nn.Module):
    """Attention and MLP, each behind its norm."""

    def __init__(self, c: DemoConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)


class Stack(nn.Module):
    """Embedding, layers, final norm: everything that Hugging Face puts under `model.`."""

    def __init__(self, c: DemoConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class DemoGemma(nn.Module):
    """The whole model; the output head is the embedding."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Stack(config)
        self._initialize()

    def _initialize(self) -> None:
        for name, parameter in self.named_parameters():
            if "embed_tokens" in name:
                nn.init.normal_(parameter, std=0.02)
            elif "o_proj" in name or "down_proj" in name:
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.6 / math.sqrt(parameter.shape[1]))

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [batch, length, hidden] of ids [batch, length]; `cache` is extended in place.

        A cache that already holds positions allows one new position per call.
        """
        start = cache[0][0].shape[2] if cache else 0
        rotary = _rotary(start, start + ids.shape[1], self.config)
        x = self.model.embed_tokens(ids) * math.sqrt(self.config.hidden_size)
        past = list(cache) if cache else None
        if cache is not None:
            cache.clear()
        for i, layer in enumerate(self.model.layers):
            assert isinstance(layer, Layer)
            y, k, v = layer.self_attn(layer.input_layernorm(x), rotary, past[i] if past else None)
            x = x + y
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            if cache is not None:
                cache.append((k, v))
        hidden: Tensor = self.model.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """The tied output head: [..., hidden] to [..., vocab]."""
        return functional.linear(hidden, self.model.embed_tokens.weight)


def _rotary(start: int, end: int, c: DemoConfig) -> tuple[Tensor, Tensor]:
    frequency = c.rope_theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
    angle = torch.arange(start, end)[:, None] * frequency
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary[0].to(x.dtype), rotary[1].to(x.dtype)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def load(folder: Path) -> DemoGemma:
    """The model of a folder, in f32."""
    model = DemoGemma(DemoConfig.read(folder))
    load_weights(model, folder / "model.safetensors")
    return model


def load_weights(model: DemoGemma, file: Path) -> None:
    """Weights of a safetensors file into `model`, names and shapes checked."""
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})


def publish(model: DemoGemma, folder: Path) -> None:
    """Write config.json and model.safetensors (bf16), each by rename."""
    tensors = {name: p.detach().bfloat16().contiguous() for name, p in model.state_dict().items()}
    replace_file(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    replace_file(folder / "config.json", model.config.to_json().encode())


def replace_file(target: Path, content: bytes) -> None:
    """Write `target` so that a reader sees the old or the new content, never a part."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
