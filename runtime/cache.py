"""The key-value cache of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cg.runtime.config import GemmaConfig
from cg.runtime.errors import ContextLengthError
from cg.runtime.tensor import Floats

__all__ = ["KVCache", "KVDType", "LayerStore"]

KVDType = Literal["f16", "f32"]

_FIRST_ALLOCATION = 256  # tokens


class LayerStore(Protocol):
    """Where a layer leaves its keys and values; :class:`KVCache` but for verification."""

    def store(
        self, layer: int, position: int, keys: Floats, values: Floats
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Take ``[T, kv_heads, head_dim]``, return all so far as ``[kv_heads, capacity, head_dim]``."""
        ...


class KVCache:
    """Keys and values of every layer, ``[kv_heads, allocated, head_dim]`` each, and the ids they belong to.

    Memory grows with the tokens held, by doubling: numpy asks for huge pages, which would otherwise commit
    most of a large capacity at the first tokens. f32 exists for parity tests and verification.
    """

    def __init__(self, config: GemmaConfig, capacity: int, dtype: KVDType = "f16") -> None:
        empty = np.empty(
            (config.num_key_value_heads, 0, config.head_dim), np.float16 if dtype == "f16" else np.float32
        )
        self.capacity = capacity
        self.ids: list[int] = []
        self._layers: list[tuple[NDArray[Any], NDArray[Any]]] = [(empty, empty)] * config.num_hidden_layers

    def __len__(self) -> int:
        """Tokens held."""
        return len(self.ids)

    def store(
        self, layer: int, position: int, keys: Floats, values: Floats
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Write ``[T, kv_heads, head_dim]`` at ``position`` and return the layer's whole arrays.

        Tokens count as held only once :meth:`commit` says so: an interrupted forward pass leaves no trace.
        """
        stop = position + keys.shape[0]
        k, v = self.room(layer, position, keys.shape[0])
        with np.errstate(over="ignore"):  # an overflow to infinity shows in the logits, which are checked
            k[:, position:stop] = keys.transpose(1, 0, 2)
            v[:, position:stop] = values.transpose(1, 0, 2)
        return k, v

    def room(self, layer: int, position: int, tokens: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """A layer's whole arrays, with room for ``tokens`` at ``position`` and whatever is before."""
        k, v = self._layers[layer]
        stop = position + tokens
        if stop > k.shape[1]:
            length = min(max(stop, 2 * k.shape[1], _FIRST_ALLOCATION), self.capacity)
            k, v = self._layers[layer] = _grown(k, position, length), _grown(v, position, length)
        return k, v

    def commit(self, ids: Sequence[int]) -> None:
        """The next ``len(ids)`` slots have been written in every layer."""
        self.ids.extend(ids)

    def check_room(self, tokens: int) -> None:
        """Raise :class:`ContextLengthError` unless ``tokens`` more fit."""
        if len(self) + tokens > self.capacity:
            raise ContextLengthError(
                f"{len(self) + tokens} tokens do not fit the context of {self.capacity}",
                hint="shorten the prompt, ask for fewer tokens, or raise the context length",
            )

    def truncate(self, length: int) -> None:
        """Forget everything from token ``length`` on."""
        del self.ids[length:]

    def common_prefix(self, ids: Sequence[int]) -> int:
        """How many leading tokens of ``ids`` the cache holds."""
        pairs = zip(self.ids, ids, strict=False)
        return next((n for n, (held, wanted) in enumerate(pairs) if held != wanted), min(len(self), len(ids)))

    def reuse(self, ids: Sequence[int]) -> int:
        """Keep the longest common prefix with ``ids``, forget the rest; returns its number of tokens."""
        common = self.common_prefix(ids)
        self.truncate(common)
        return common


def _grown(array: NDArray[Any], used: int, length: int) -> NDArray[Any]:
    heads, _, head_dim = array.shape
    larger = np.empty((heads, length, head_dim), array.dtype)
    larger[:, :used] = array[:, :used]
    return larger
