"""What the block encoders share: sources as float32 and Java's rules for turning floats into integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.tensor import Floats

__all__ = ["MIN_VALUE", "as_blocks", "java_byte"]

MIN_VALUE = np.float32(2.0**-149)
"""``Float.MIN_VALUE``: where Jlama starts its search for the largest magnitude."""

_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1


def as_blocks(rows: NDArray[Any], dtype: DType) -> Floats:
    """Rows of stored elements as float32 blocks ``[n, 32]``; f16 and bf16 widen exactly."""
    if dtype is DType.BF16:
        rows = (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return rows.astype(np.float32, copy=False).reshape(-1, BLOCK_SIZE)


def java_byte(values: Floats) -> NDArray[np.int32]:
    """Java's ``(byte) x``: towards zero into an int (saturating, NaN gives 0), of which the low 8 bits."""
    if bool(((values > -128) & (values < 128)).all()):  # whatever is not subnormal, infinite or NaN
        return values.astype(np.int32)
    whole = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=_INT_MAX, neginf=_INT_MIN)
    integers: NDArray[np.int64] = np.clip(whole, _INT_MIN, _INT_MAX).astype(np.int64)
    return integers.astype(np.int8).astype(np.int32)
