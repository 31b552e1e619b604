"""PyTorch as a worker: the products with a model's weight matrices alone, nothing between them.

    python torch_worker.py CONFIG.json {int4,f32} THREADS

A lower bound of what a model on these kernels would take: attention, norms and everything else cost nothing
here. ``int4`` is ``aten::_weight_int4pack_mm_for_cpu`` in groups of 32, with bf16 activations; all layers
have matrices of their own, because one layer's (2b: 70 MB) might stay in a cache. ``f32`` is a plain linear
layer; one layer's matrices (2b: 440 MB) stand for all. The numbers in them are random.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from worker import serve

__all__ = ["TorchEngine"]

_GROUP = 32
_Matrix = Callable[[torch.Tensor], torch.Tensor]


class TorchEngine:
    """All matrices of the model in the order of use."""

    def __init__(self, config: dict[str, Any], kind: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self._kind, self._hidden = kind, config["hidden_size"]
        self._dtype = torch.bfloat16 if kind == "int4" else torch.float32
        make = _int4 if kind == "int4" else _linear
        layers = config["num_hidden_layers"]
        copies = layers if kind == "int4" else 1
        self._layers = [[make(rows, cols) for rows, cols in _shapes(config)] for _ in range(copies)]
        self._layers *= layers // copies
        self._widths = [cols for _, cols in _shapes(config)]
        self._head = make(config["vocab_size"], self._hidden)

    def describe(self) -> dict[str, Any]:
        """Version and kernels."""
        settings = {"products": self._kind, "cpu": torch.backends.cpu.get_cpu_capability()}
        threads = torch.get_num_threads()
        return {"package": "torch", "version": torch.__version__, "settings": settings, "threads": threads}

    def prompt(self, ids: Sequence[int]) -> float:
        """Seconds for the products of a prompt, the head's for the last token only."""
        return self._products(len(ids), 1)

    def decode(self, ids: Sequence[int], depth: int = 0) -> float:
        """Seconds for the products of as many single tokens; the depth makes no difference."""
        return sum(self._products(1, 1) for _ in ids)

    def batch(self, ids: Sequence[int], repeat: int) -> list[float]:
        """Seconds for the products of all ids in one batch, ``repeat`` times after once to warm up."""
        return [self._products(len(ids), len(ids)) for _ in range(repeat + 1)][1:]

    @torch.inference_mode()
    def _products(self, tokens: int, outputs: int) -> float:
        widths = {*self._widths, self._hidden}
        inputs = {width: torch.rand(tokens, width, dtype=self._dtype) for width in widths}
        started = time.perf_counter()
        for layer in self._layers:
            for matrix, width in zip(layer, self._widths, strict=True):
                matrix(inputs[width])
        self._head(inputs[self._hidden][:outputs])
        return time.perf_counter() - started


def _shapes(config: dict[str, Any]) -> list[tuple[int, int]]:
    """``[out, in]`` of one layer's matrices."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    attention = [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q)]
    return [*attention, (inner, hidden), (inner, hidden), (hidden, inner)]


def _int4(rows: int, cols: int) -> _Matrix:
    packed = torch.randint(0, 256, (rows, cols // 2), dtype=torch.uint8)
    scales = torch.rand(cols // _GROUP, rows, 2, dtype=torch.bfloat16)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, _GROUP, scales)
        return product

    return multiply


def _linear(rows: int, cols: int) -> _Matrix:
    weight = torch.rand(rows, cols)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, weight)

    return multiply


if __name__ == "__main__":
    serve(TorchEngine(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2], int(sys.argv[3])))
