"""The operations as compiled kernels, and the one place that imports the extension.

Everything that the kernels rely on is checked here: they trust their arguments.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from cg.runtime import instruction_sets
from cg.runtime.cores import physical_cores
from cg.runtime.decoder_layer import DecoderLayer
from cg.runtime.dtypes import DType
from cg.runtime.errors import BackendError, UsageError
from cg.runtime.instruction_sets import FORCE_ISA
from cg.runtime.kernel_checks import check_cache, check_layers, check_product, check_weight
from cg.runtime.layers_native import NativeLayers
from cg.runtime.ops import Activations, Ids, LayerCache
from cg.runtime.tensor import Floats, Tensor

__all__ = [
    "FORCE_ISA",
    "MAX_THREADS",
    "NativeOps",
    "active_isa",
    "import_problem",
    "isa_failure",
    "native_format",
    "refused_isas",
    "supported_isas",
]

MAX_THREADS = 256

_problem: str | None = None
try:
    import cg.runtime._native as _native  # `from cg.runtime import` would not tell missing from broken
except ModuleNotFoundError:
    _problem = "compiled kernels are missing: no C++ compiler was found when cg was installed"
except ImportError as error:
    _problem = f"compiled kernels do not load: {error}"


def import_problem() -> str | None:
    """Why the compiled kernels cannot be used, in one line, or None when they can."""
    return _problem


def supported_isas() -> list[tuple[str, bool]]:
    """Instruction sets in this build, worst first, each with whether this machine runs it."""
    return [] if _problem else _native.isas()


def active_isa() -> str:
    """The instruction set that new :class:`NativeOps` use: ``CG_FORCE_ISA``, or the best that works.

    Raises:
        BackendError: no compiled kernels, or ``CG_FORCE_ISA`` names a set that is unknown, unsupported or
            fails its self-test.
    """
    if _problem:
        raise BackendError(_problem, hint="install a C++ compiler and reinstall cg, or use another backend")
    forced = os.environ.get(FORCE_ISA)
    return _check_isa(forced, f"{FORCE_ISA}={forced}") if forced else _native.best_isa()


def isa_failure(isa: str) -> str | None:
    """What the kernels of a supported set get wrong on this machine, or None; tests them when first asked."""
    return _native.isa_failure(isa)


def refused_isas() -> dict[str, str]:
    """The better sets that :func:`active_isa` passed over, each with what failed in its self-test."""
    if _problem or os.environ.get(FORCE_ISA):
        return {}
    return instruction_sets.refused(_native.best_isa(), supported_isas(), isa_failure)


def _check_isa(isa: str, where: str) -> str:
    return instruction_sets.check(isa, where, supported_isas(), isa_failure)


class NativeOps:
    """The native backend. Several threads may share one instance; their calls run one after the other."""

    name = "native"

    def __init__(
        self, *, threads: int | None = None, activations: Activations = "int8", isa: str | None = None
    ) -> None:
        """``threads`` defaults to the physical cores, ``isa`` to :func:`active_isa`.

        Raises:
            BackendError: no compiled kernels, an unusable instruction set, or the system refuses the threads.
            UsageError: an impossible number of threads, or unknown activations.
        """
        best = active_isa()
        self.isa = best if isa is None else _check_isa(isa, f"instruction set {isa!r}")
        self.threads = physical_cores() if threads is None else threads
        if not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"{threads} threads: use 1 to {MAX_THREADS}")
        if activations not in get_args(Activations):
            raise UsageError(f"unknown activations {activations!r}", hint="use int8 or f32")
        self.activations: Activations = activations
        self._int8 = activations == "int8"
        self._weights: weakref.WeakKeyDictionary[Tensor, _native.Weight] = weakref.WeakKeyDictionary()
        try:
            self._context = _native.Context(self.isa, self.threads)
        except RuntimeError as error:
            raise BackendError(
                f"{self.threads} threads could not be started: {error}", hint="use fewer"
            ) from error
        _instances.add(self)

    def embed(self, table: Tensor, ids: Ids, scale: float) -> Floats:
        weight = self._weight(table)
        out = np.empty((len(ids), table.cols), np.float32)
        try:
            bad = self._context.embed(weight, ids, scale, out)
        except TypeError as error:
            raise UsageError("embed: ids must be contiguous int32 [T]") from error
        if bad >= 0:
            raise UsageError(f"embed: id {ids[bad]} is not one of the {table.rows} rows of {table.name}")
        return out

    def matmul(self, x: Floats, weight: Tensor, residual: Floats | None = None) -> Floats:
        return self._products("matmul", x, None, 0.0, (weight,), residual)[0]

    def norm_matmul(self, x: Floats, norm: Floats, eps: float, weights: Sequence[Tensor]) -> list[Floats]:
        return self._products("norm_matmul", x, norm, eps, weights)

    def norm_geglu(self, x: Floats, norm: Floats, eps: float, gate: Tensor, up: Tensor) -> Floats:
        gates, ups = self._weight(gate), self._weight(up)
        check_product("norm_geglu", x, norm, (gate, up))
        if gate.shape != up.shape:
            raise UsageError(f"norm_geglu: gate is {list(gate.shape)}, up {list(up.shape)}")
        out = np.empty((x.shape[0], gate.rows), np.float32)
        try:
            self._context.gated_product(x, norm, eps, self._int8, gates, ups, out)
        except TypeError as error:
            raise UsageError("norm_geglu: x and norm must be contiguous float32") from error
        return out

    def _products(
        self,
        name: str,
        x: Floats,
        norm: Floats | None,
        eps: float,
        weights: Sequence[Tensor],
        residual: Floats | None = None,
    ) -> list[Floats]:
        known = [self._weight(weight) for weight in weights]
        check_product(name, x, norm, weights)
        outs = [np.empty((x.shape[0], weight.shape[0]), np.float32) for weight in weights]
        if residual is not None and residual.shape != outs[0].shape:
            raise UsageError(f"{name}: the residual is {list(residual.shape)}, not {list(outs[0].shape)}")
        try:
            self._context.products(x, norm, eps, self._int8, known, outs, residual)
        except TypeError as error:
            raise UsageError(f"{name}: x must be contiguous float32 [T, cols]") from error
        return outs

    def _weight(self, tensor: Tensor) -> _native.Weight:
        """The kernels' view of a weight; checked when it is first met."""
        known = self._weights.get(tensor)
        if known is None:
            check_weight(tensor)
            known = self._weights[tensor] = _native.Weight(
                tensor.data, tensor.scales, _format(tensor), *tensor.shape
            )
        return known

    def rope(self, x: Floats, position: int, theta: float) -> None:
        if x.ndim != 3 or x.shape[2] % 2:
            raise UsageError(f"rope: x is {list(x.shape)}, not [T, heads, head_dim] with an even head_dim")
        try:
            self._context.rope(x, position, theta)
        except TypeError as error:
            raise UsageError("rope: x must be contiguous, writable float32") from error

    def attention(
        self, q: Floats, keys: NDArray[Any], values: NDArray[Any], position: int, scale: float
    ) -> Floats:
        if q.ndim != 3 or keys.ndim != 3:
            raise UsageError(f"attention: q is {q.shape}, keys {keys.shape}, values {values.shape}")
        tokens, heads, head_dim = q.shape
        kv_heads = keys.shape[0]
        if kv_heads == 0 or heads % kv_heads:
            raise UsageError(f"attention: queries {list(q.shape)} do not fit keys {list(keys.shape)}")
        check_cache("attention", keys, values, (kv_heads, head_dim), position, tokens)
        out = np.empty((tokens, heads * head_dim), np.float32)
        try:
            self._context.attention(q, keys, values, position, scale, out)
        except TypeError as error:
            raise UsageError("attention: q must be contiguous float32 [T, heads, head_dim]") from error
        return out

    def fuse(
        self, layers: Sequence[DecoderLayer], *, head_dim: int, eps: float, theta: float
    ) -> NativeLayers:
        known = [self._layer(layer) for layer in layers]
        hidden, kv_heads = check_layers(layers, head_dim)
        native, scale = _native.Layers(known), head_dim**-0.5

        def run(first: int, x: Floats, caches: Sequence[LayerCache], position: int, last_only: bool) -> None:
            self._context.run_layers(
                native, first, x, caches, position, last_only, head_dim, scale, eps, theta, self._int8
            )

        return NativeLayers(run, len(layers), hidden, (kv_heads, head_dim))

    def _layer(self, layer: DecoderLayer) -> tuple[Any, ...]:
        weight = self._weight
        return (
            layer.input_layernorm,
            *map(weight, (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj)),
            layer.post_attention_layernorm,
            *map(weight, (layer.gate_proj, layer.up_proj, layer.down_proj)),
        )


_FORMATS: dict[DType, Any] = {}
if _problem is None:
    _FORMATS = {
        dtype: getattr(_native.Format, dtype.value)
        for dtype in (DType.Q4, DType.I8, DType.BF16, DType.F16, DType.F32)
    }


def native_format(dtype: DType) -> Any:
    """A dtype in the kernels' terms."""
    return _FORMATS[dtype]


def _format(weight: Tensor) -> Any:
    """How a checked weight is stored, in the kernels' terms."""
    half = weight.scales is not None and weight.scales.dtype == np.float16
    return _native.Format.Q4H if half else _FORMATS[weight.dtype]


_instances: weakref.WeakSet[NativeOps] = weakref.WeakSet()


def _restart_threads() -> None:
    """Only the forking thread lives on in the child; every instance needs new workers."""
    for ops in _instances:
        ops._context.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_threads)
