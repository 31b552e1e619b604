"""Jlama's convention for quantized tensors: ``NAME`` with dtype Q4 or I8, its scales in ``NAME.qb``.

``NAME.qb`` is F32 of shape [rows, cols / 32]; the blocks themselves are described in
:mod:`cg.runtime.tensor` and in ``docs/reference/formats.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import MissingScalesError, OrphanScalesError, ScalesShapeError
from cg.runtime.tensor import Tensor

__all__ = ["SCALES_SUFFIX", "fold_scales", "scales_shape"]

SCALES_SUFFIX = ".qb"


def scales_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Shape of the scales of a quantized matrix."""
    rows, cols = shape
    return rows, cols // BLOCK_SIZE


def fold_scales(stored: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Attach every ``.qb`` tensor to the one that it scales; ``where`` names the file in messages.

    Raises:
        MissingScalesError: a Q4 or I8 tensor without scales. This includes a classic safetensors file
            with plain int8 tensors: cg, like Jlama, reads I8 as blocks only.
        ScalesShapeError: scales of another dtype or shape.
        OrphanScalesError: scales of nothing, or of a tensor that is not quantized.
    """
    folded: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(SCALES_SUFFIX):
            owner = stored.get(name.removesuffix(SCALES_SUFFIX))
            if owner is None or not owner.dtype.is_quantized:
                state = "there is no such tensor" if owner is None else f"that tensor is {owner.dtype.value}"
                raise OrphanScalesError(f"{where}: {name!r} holds scales of a quantized tensor, but {state}")
        elif tensor.dtype.is_quantized:
            folded[name] = _with_scales(tensor, stored.get(name + SCALES_SUFFIX), where)
        else:
            folded[name] = tensor
    return folded


def _with_scales(tensor: Tensor, scales: Tensor | None, where: str) -> Tensor:
    name = tensor.name
    if scales is None:
        raise MissingScalesError(
            f"{where}: {tensor.dtype.value} tensor {name!r} without its scales {name + SCALES_SUFFIX!r}",
            hint="cg reads I8 as Jlama's blocks only" if tensor.dtype is DType.I8 else None,
        )
    expected = scales_shape(tensor.shape)
    if scales.dtype is not DType.F32 or scales.shape != expected:
        raise ScalesShapeError(
            f"{where}: {scales.name!r} is {scales.dtype.value} {list(scales.shape)}, "
            f"expected F32 {list(expected)}"
        )
    return Tensor(name, tensor.dtype, tensor.shape, tensor.data, scales.data.view("<f4").reshape(expected))
