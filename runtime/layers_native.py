"""Decoder layers as one call of the compiled kernels: between their operations Python costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cg.runtime.errors import UsageError
from cg.runtime.kernel_checks import check_cache
from cg.runtime.ops import LayerCache
from cg.runtime.tensor import Floats

__all__ = ["NativeLayers"]


class NativeLayers:
    """The layers of one model, checked when they were put together."""

    def __init__(self, run: Callable[..., None], count: int, hidden: int, entry: tuple[int, int]) -> None:
        """``run(first, x, caches, position, last_only)`` calls the extension.

        ``entry`` is ``(kv_heads, head_dim)``.
        """
        self._run = run
        self._count = count
        self._hidden = hidden
        self._entry = entry

    def run(
        self, x: Floats, first: int, caches: Sequence[LayerCache], position: int, *, last_only: bool
    ) -> None:
        """As :class:`~cg.runtime.ops.FusedLayers` says.

        Raises:
            UsageError: arguments that do not fit the layers or each other.
        """
        if x.ndim != 2 or x.shape[1] != self._hidden or not len(x):
            raise UsageError(f"layers: x is {list(x.shape)}, not [T, {self._hidden}]")
        if first < 0 or first + len(caches) > self._count:
            raise UsageError(f"layers: {len(caches)} from {first} on, of {self._count}")
        for keys, values in caches:
            check_cache("layers", keys, values, self._entry, position, len(x))
        try:
            self._run(first, x, caches, position, last_only)
        except TypeError as error:
            raise UsageError("layers: x must be contiguous, writable float32, the caches writable") from error
