"""Jlama's I8: 32 elements as signed bytes with one float32 scale; value = byte * scale.

Follows Jlama 0.8.4's ``Q8ByteBufferTensor.processBlock`` bit for bit, what it does with NaN, infinity
and subnormal numbers included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cg.quant.schemes.blocks import MIN_VALUE, java_byte
from cg.runtime.tensor import Floats

__all__ = ["encode"]


def encode(blocks: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Encode ``[n, 32]``: bytes ``[n, 32]`` (signed, as their bits) and scales ``[n]``."""
    with np.errstate(all="ignore"):  # infinity and NaN follow IEEE rules, as in Java
        # Not np.fmax: a signalling NaN would win.
        magnitude = np.where(np.isnan(blocks), np.float32(0), np.abs(blocks)).max(axis=1, keepdims=True)
        inverse = np.float32(127) / np.maximum(magnitude, MIN_VALUE)
        scales = np.where(inverse != 0, np.float32(1) / inverse, np.float32(0))
        # Java's Math.round is floor(x + 1/2) without rounding in between, which x + 0.5 in float32 is not.
        scaled = blocks * inverse
        below = np.floor(scaled)
        integers = java_byte(below + (scaled - below >= np.float32(0.5)))
    return integers.astype(np.uint8), scales[:, 0]
