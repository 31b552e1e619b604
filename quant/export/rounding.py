"""Float32 numbers in narrower types, and what that cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.runtime.dtypes import DType
from cg.runtime.errors import NonFiniteError
from cg.runtime.tensor import Floats

__all__ = ["Rounding", "narrow", "widen"]


@dataclass(frozen=True, slots=True)
class Rounding:
    """Numbers that had to fit a type, and how far those moved that it does not hold."""

    numbers: int = 0
    changed: int = 0
    vanished: int = 0
    """Of the changed ones: too small for the type, now 0."""
    largest_relative_change: float = 0.0
    """Of those that did not vanish: largest \\|new - old\\| / \\|old\\|."""

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(
            self.numbers + other.numbers,
            self.changed + other.changed,
            self.vanished + other.vanished,
            max(self.largest_relative_change, other.largest_relative_change),
        )

    @property
    def exact(self) -> bool:
        """Whether every number is the same to the bit."""
        return self.changed == 0


def narrow(values: Floats, dtype: DType, what: str) -> tuple[NDArray[Any], Rounding]:
    """``values`` in F32, F16 or BF16 (its bits in uint16), rounded to nearest even; ``what`` names them.

    Raises:
        NonFiniteError: NaN or infinity among them, or a number too large for the type.
    """
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"{what}: NaN or infinity", hint="the model is damaged; other programs would compute NaN with it"
        )
    if dtype is DType.F32:
        return values, Rounding(values.size)
    with np.errstate(over="ignore", under="ignore"):
        stored = values.astype(np.float16) if dtype is DType.F16 else _bf16_bits(values)
    back = widen(stored, dtype)
    finite = np.isfinite(back)
    if not finite.all():
        raise NonFiniteError(
            f"{what}: {float(values[~finite][0]):g} is beyond what {dtype.value} can hold",
            hint="quantize the model anew from its original, or choose a type with a larger range",
        )
    different = back.view(np.uint32) != values.view(np.uint32)
    if not different.any():
        return stored, Rounding(values.size)
    old, new = values[different].astype(np.float64), back[different].astype(np.float64)
    kept = new != 0
    moved = np.abs(new[kept] - old[kept]) / np.abs(old[kept])
    largest = float(moved.max()) if moved.size else 0.0
    return stored, Rounding(values.size, len(old), int(len(old) - np.count_nonzero(kept)), largest)


def widen(stored: NDArray[Any], dtype: DType) -> Floats:
    """F32, F16 or BF16 (its bits in uint16) as float32."""
    if dtype is DType.BF16:
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32, copy=False)


def _bf16_bits(values: Floats) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    nearest_even = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (nearest_even >> np.uint32(16)).astype(np.uint16)
