"""A stored tensor: a view of the memory-mapped file, with its scales when it is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.runtime.dtypes import BLOCK_SIZE, DType

__all__ = ["Bytes", "Floats", "Scales", "Tensor"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Scales = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Tensor:
    """One tensor as it lies in its file; nothing is copied.

    ``data`` are its bytes, 1-D, possibly at an odd address. ``scales`` are float32, for Q4 also float16,
    ``[rows, cols / 32]`` (also possibly unaligned), or None for a tensor without blocks.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    data: Bytes
    scales: Scales | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        """Bytes in its files, scales included."""
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def rows(self) -> int:
        """Rows of the tensor seen as a matrix; a vector is one row."""
        return self.size // self.cols if self.cols else 0

    @property
    def cols(self) -> int:
        """Length of the last dimension (1 for a scalar)."""
        return self.shape[-1] if self.shape else 1

    def storage(self) -> NDArray[Any]:
        """The raw elements, no copy: ``shape`` of ``dtype.storage``, Q4 as ``[rows, cols / 2]`` bytes."""
        shape = (self.rows, self.cols // 2) if self.dtype is DType.Q4 else self.shape
        return self.data.view(self.dtype.storage).reshape(shape)

    def dequantize(self, start: int = 0, stop: int | None = None) -> Floats:
        """Rows ``start:stop`` as float32 ``[stop - start, cols]``, a fresh array.

        The plain definition of every format; the kernels are tested against it.
        """
        stop = self.rows if stop is None else stop
        if self.dtype is DType.Q4:
            packed = self.storage()[start:stop].reshape(-1, BLOCK_SIZE // 2)
            nibbles = np.concatenate([packed & 0x0F, packed >> 4], axis=1)
            values = nibbles.astype(np.float32) - np.float32(8)
            return self._apply_scales(values, start, stop)
        if self.dtype is DType.I8:
            values = self.storage()[start:stop].astype(np.float32).reshape(-1, BLOCK_SIZE)
            return self._apply_scales(values, start, stop)
        matrix = self.storage().reshape(self.rows, self.cols)[start:stop]
        if self.dtype is DType.BF16:
            return (matrix.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return matrix.astype(np.float32)

    def _apply_scales(self, blocks: Floats, start: int, stop: int) -> Floats:
        assert self.scales is not None  # the reader never builds a quantized tensor without
        scales = self.scales[start:stop].astype(np.float32).reshape(-1, 1)
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite scales are legal in a file
            return (blocks * scales).reshape(stop - start, self.cols)
