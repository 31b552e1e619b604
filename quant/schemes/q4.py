"""Jlama's Q4: 32 elements as 4-bit integers around 8 with one float32 scale.

Byte j of a block's 16 holds element j in its low half and element j + 16 in its high half;
value = (nibble - 8) * scale. Follows Jlama 0.8.4's ``Q4ByteBufferTensor.processBlock`` bit for bit,
what it does with NaN, infinity and subnormal numbers included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cg.quant.schemes.blocks import MIN_VALUE, java_byte
from cg.runtime.tensor import Floats

__all__ = ["encode"]


def encode(blocks: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Encode ``[n, 32]``: packed bytes ``[n, 16]`` and scales ``[n]``.

    The element of largest magnitude, the first on a tie, becomes exactly -8 steps.
    """
    with np.errstate(all="ignore"):  # infinity and NaN follow IEEE rules, as in Java
        # NaN never wins Jlama's "greater than" search, nor does anything up to MIN_VALUE.
        magnitude = np.where(np.isnan(blocks), np.float32(-1), np.abs(blocks))
        first = magnitude.argmax(axis=1)[:, None]
        found = np.take_along_axis(magnitude, first, axis=1) > MIN_VALUE
        largest = np.where(found, np.take_along_axis(blocks, first, axis=1), MIN_VALUE)
        scales = largest / np.float32(-8)
        inverse = np.where(scales != 0, np.float32(1) / scales, np.float32(0))
        nibbles: NDArray[np.int32] = np.minimum(java_byte(blocks * inverse + np.float32(8.5)), 15)
    # A nibble can be negative when 1 / scale overflows; Java's sign extension then fills the high half too.
    packed = nibbles[:, :16] | (nibbles[:, 16:] << 4)
    return (packed & 0xFF).astype(np.uint8), scales[:, 0].astype(np.float32, copy=False)
