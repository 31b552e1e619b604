"""The same 4-bit and 8-bit integers in other programs' order; no integer changes its value.

A block is 32 elements with one scale. Jlama keeps the scales apart; GGUF puts one in f16 in front of each
block (ggml-common.h, ``block_q4_0`` and ``block_q8_0``); compressed-tensors packs eight 4-bit integers into
an int32, element by element, with scales apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.tensor import Bytes, Floats

__all__ = ["GGUF_BLOCK_BYTES", "from_gguf", "to_gguf", "to_int32_words"]

GGUF_BLOCK_BYTES = {DType.Q4: 2 + BLOCK_SIZE // 2, DType.I8: 2 + BLOCK_SIZE}
"""Bytes of a block in a GGUF file, Q4_0 and Q8_0."""


def to_gguf(integers: Bytes, halves: NDArray[np.float16], dtype: DType) -> Bytes:
    """Jlama's integers (bytes, 1-D) and f16 scales as GGUF's blocks ``[n, 18 or 34]``."""
    size = GGUF_BLOCK_BYTES[dtype]
    blocks = np.empty((halves.size, size), dtype=np.uint8)
    blocks[:, :2] = np.ascontiguousarray(halves).astype("<f2", copy=False).view(np.uint8).reshape(-1, 2)
    blocks[:, 2:] = integers.reshape(-1, size - 2)
    return blocks


def from_gguf(blocks: Bytes, dtype: DType) -> tuple[Bytes, Floats]:
    """The way back: integers (bytes, 1-D) and float32 scales ``[n]`` of GGUF's blocks (bytes, 1-D)."""
    shaped = blocks.reshape(-1, GGUF_BLOCK_BYTES[dtype])
    scales = np.ascontiguousarray(shaped[:, :2]).view("<f2").reshape(-1).astype(np.float32)
    return np.ascontiguousarray(shaped[:, 2:]).reshape(-1), scales


def to_int32_words(packed: Bytes) -> NDArray[np.int32]:
    """Jlama's Q4 bytes (1-D) as int32 ``[n / 4]``: element j of each eight in bits 4j to 4j + 3.

    Both formats store value + 8. Jlama's low halves are a block's elements 0 to 15, its high halves 16 to 31.
    """
    rows = packed.reshape(-1, BLOCK_SIZE // 2)
    nibbles = np.concatenate([rows & np.uint8(0x0F), rows >> np.uint8(4)], axis=1)
    words: NDArray[np.int32] = (nibbles[:, 0::2] | nibbles[:, 1::2] << np.uint8(4)).view("<i4").reshape(-1)
    return words
