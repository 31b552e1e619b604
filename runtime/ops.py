"""The dozen operations that the model is written in, and the choice of the backend that supplies them.

Arrays are numpy float32, C-contiguous, rows = tokens. Weights are :class:`~cg.runtime.tensor.Tensor`
views of the memory-mapped file; no backend keeps a converted copy of a model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from cg.runtime.decoder_layer import DecoderLayer
from cg.runtime.errors import BackendError
from cg.runtime.tensor import Floats, Tensor

__all__ = [
    "Activations",
    "Backend",
    "BackendChoice",
    "FusedLayers",
    "Ids",
    "LayerCache",
    "Ops",
    "available_backends",
    "open_ops",
]

Backend = Literal["auto", "native", "torch", "numpy"]
Activations = Literal["int8", "f32"]
Ids = NDArray[np.int32]
LayerCache = tuple[NDArray[Any], NDArray[Any]]
"""Keys and values of a layer, ``[kv_heads, capacity, head_dim]`` in f16 or f32."""


class Ops(Protocol):
    """What a backend supplies. ``T`` is the number of tokens in the call, any number from 1."""

    name: str
    """``native``, ``torch`` or ``numpy``."""
    isa: str
    """Instruction set in use, e.g. ``avx2``; for torch and numpy a word about the library."""
    threads: int
    activations: Activations
    """How activations enter a product with quantized weights; products with float weights are f32."""

    def embed(self, table: Tensor, ids: Ids, scale: float) -> Floats:
        """Rows ``ids`` of the table times ``scale``: ``[T, cols]``."""
        ...

    def matmul(self, x: Floats, weight: Tensor, residual: Floats | None = None) -> Floats:
        """``x [T, cols]`` times the transposed weight, plus ``residual``: ``[T, rows]``."""
        ...

    def norm_matmul(self, x: Floats, norm: Floats, eps: float, weights: Sequence[Tensor]) -> list[Floats]:
        """RMSNorm of ``x [T, cols]``, then its product with each weight: ``[T, rows]`` each.

        RMSNorm is ``x / sqrt(mean(x²) + eps) * norm`` over the last dimension; ``norm`` is applied as it is.
        """
        ...

    def norm_geglu(self, x: Floats, norm: Floats, eps: float, gate: Tensor, up: Tensor) -> Floats:
        """``gelu_tanh(h gate) * (h up)`` with ``h`` the RMSNorm of ``x [T, cols]``: ``[T, rows]``."""
        ...

    def rope(self, x: Floats, position: int, theta: float) -> None:
        """Rotate ``x [T, heads, head_dim]`` in place, half-split; token t stands at ``position + t``."""
        ...

    def attention(
        self, q: Floats, keys: NDArray[Any], values: NDArray[Any], position: int, scale: float
    ) -> Floats:
        """Causal attention of ``q [T, heads, head_dim]``: ``[T, heads * head_dim]``.

        ``keys`` and ``values`` are ``[kv_heads, capacity, head_dim]`` in f16 or f32 and hold at least
        ``position + T`` tokens; token t sees cache entries ``0 .. position + t``.
        """
        ...

    def fuse(
        self, layers: Sequence[DecoderLayer], *, head_dim: int, eps: float, theta: float
    ) -> FusedLayers | None:
        """Whole layers as one operation, where the backend has it."""
        ...


class FusedLayers(Protocol):
    """The operations of decoder layers in one call, with the results of their calls one by one."""

    def run(
        self, x: Floats, first: int, caches: Sequence[LayerCache], position: int, *, last_only: bool
    ) -> None:
        """Run ``x [T, hidden]`` in place through as many layers as there are caches, from ``first`` on.

        Keys and values go to the caches, token t at ``position + t``. With ``last_only`` only the last
        token leaves the last of these layers: the others' rows hold what entered it.
        """
        ...


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend, whether it can run here, and why (not)."""

    name: str
    available: bool
    reason: str
    warning: str | None = None
    """What is wrong although it can be used."""


def available_backends() -> list[BackendChoice]:
    """The backends in order of preference, each with the reason why it can or cannot be used."""
    torch_found = importlib.util.find_spec("torch") is not None
    return [
        _native_choice(),
        BackendChoice(
            "torch",
            torch_found,
            "PyTorch is installed"
            if torch_found
            else "PyTorch is not installed (pip install 'codegemma-cg[torch]')",
        ),
        BackendChoice("numpy", True, "always there, slow"),
    ]


def _native_choice() -> BackendChoice:
    from cg.runtime import instruction_sets, ops_native

    problem = ops_native.import_problem()
    if problem is not None:
        return BackendChoice("native", False, problem)
    active, refused = ops_native.active_isa(), ops_native.refused_isas()
    reason = f"compiled kernels, {active}"
    if not refused:
        return BackendChoice("native", True, reason)
    failed = instruction_sets.failed(refused)
    return BackendChoice("native", True, f"{reason}; {failed}", f"{failed}; computing with {active}")


def open_ops(
    backend: Backend = "auto", *, threads: int | None = None, activations: Activations | None = None
) -> Ops:
    """Make the operations of a backend.

    ``auto`` takes the first of native, torch and numpy that is available. ``activations`` defaults to
    int8 on native and f32 elsewhere; ``threads`` to the number of physical cores.

    Raises:
        BackendError: the backend is unknown or not available here.
    """
    if backend not in get_args(Backend):
        raise BackendError(f"unknown backend {backend!r}", hint=f"use one of {', '.join(get_args(Backend))}")
    choices = {c.name: c for c in available_backends()}
    name = next(c.name for c in choices.values() if c.available) if backend == "auto" else backend
    if not choices[name].available:
        raise BackendError(
            f"the {name} backend is not available: {choices[name].reason}", hint="try --backend auto"
        )
    if name == "native":
        from cg.runtime.ops_native import NativeOps

        return NativeOps(threads=threads, activations=activations or "int8")
    if name == "torch":
        from cg.runtime.ops_torch import TorchOps

        return TorchOps(threads=threads, activations=activations or "f32")
    from cg.runtime.ops_reference import ReferenceOps

    return ReferenceOps(activations=activations or "f32")
