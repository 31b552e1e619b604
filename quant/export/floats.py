"""Whole matrices as floats, in pieces of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from cg.quant.export.folder import FolderTensor, Piece
from cg.quant.export.rounding import narrow
from cg.quant.export.source import OpenSource, row_ranges
from cg.runtime.dtypes import DType
from cg.runtime.formats.writer import TensorSpec
from cg.runtime.tensor import Tensor

__all__ = ["FloatType", "float_tensor"]

FloatType = Literal["bf16", "f16", "f32"]
"""What numbers can be stored as."""


def float_tensor(source: OpenSource, tensor: Tensor, dtype: DType) -> FolderTensor:
    """A tensor to be written in ``dtype``: blocks expanded, floats converted, vectors as vectors."""
    shape = (tensor.size,) if tensor.rows == 1 else tensor.shape
    pieces = _copied if tensor.dtype is dtype else _converted
    return FolderTensor(
        TensorSpec(tensor.name, dtype, shape),
        dtype.value,
        partial(pieces, tensor, dtype),
        partial(source.release, tensor),
    )


def _copied(tensor: Tensor, dtype: DType) -> Iterator[Piece]:
    rows = tensor.storage().reshape(tensor.rows, tensor.cols)
    for start, stop in row_ranges(tensor):
        yield Piece(tensor.name, rows[start:stop], rows[start:stop].nbytes)


def _converted(tensor: Tensor, dtype: DType) -> Iterator[Piece]:
    row_bytes = tensor.nbytes // max(tensor.rows, 1)
    for start, stop in row_ranges(tensor):
        where = f"{tensor.name}, rows {start} to {stop - 1}"
        stored, rounding = narrow(tensor.dequantize(start, stop), dtype, where)
        yield Piece(tensor.name, stored, (stop - start) * row_bytes, rounding)
