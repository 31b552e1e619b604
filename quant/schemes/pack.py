"""Integers to the bytes of Jlama's blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.tensor import Bytes

__all__ = ["pack"]


def pack(integers: NDArray[np.int8], dtype: DType) -> Bytes:
    """Integers ``[rows, cols]``, -8 to 7 for Q4, as they lie in a file, 1-D."""
    if dtype is DType.I8:
        return integers.view(np.uint8).reshape(-1)
    nibbles = (integers + np.int8(8)).view(np.uint8).reshape(-1, BLOCK_SIZE)
    half = BLOCK_SIZE // 2
    packed: Bytes = nibbles[:, :half] | nibbles[:, half:] << np.uint8(4)
    return packed.reshape(-1)
