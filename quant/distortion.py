"""How far a tensor moved: what quantizing did to its values."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Distortion"]


@dataclass(frozen=True, slots=True)
class Distortion:
    """Sums over a tensor's finite blocks, from which relative error and signal-to-noise ratio follow."""

    sum_sq: float = 0.0
    """Sum of the squared source elements."""
    sum_sq_error: float = 0.0
    """Sum of the squared differences to the quantized elements."""

    def __add__(self, other: Distortion) -> Distortion:
        return Distortion(self.sum_sq + other.sum_sq, self.sum_sq_error + other.sum_sq_error)

    @property
    def relative_error(self) -> float | None:
        """Root of (squared error / squared source); None if the source is all zero but the result is not."""
        if self.sum_sq == 0.0:
            return 0.0 if self.sum_sq_error == 0.0 else None
        return math.sqrt(self.sum_sq_error / self.sum_sq)

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio in decibels; None without noise."""
        relative = self.relative_error
        return -20 * math.log10(relative) if relative else None
