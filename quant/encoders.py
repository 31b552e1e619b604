"""How the pieces of a tensor become blocks, whatever the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cg.quant.plan import PlannedTensor, QuantizeOptions
from cg.quant.rounding.fit import Fitter, Levels
from cg.quant.rounding.search import search
from cg.quant.schemes import Encoded, encode
from cg.quant.schemes.pack import pack
from cg.runtime.dtypes import BLOCK_SIZE
from cg.runtime.tensor import Tensor

__all__ = ["Encode", "encoder"]

Encode = Callable[[PlannedTensor, int, int], Encoded]
"""Encodes rows ``start:stop`` of a planned tensor; called by several threads at once."""


def encoder(options: QuantizeOptions, rounded: Mapping[str, Tensor]) -> Encode:
    """Takes what is rounded already from ``rounded``; the rest is searched, or encoded as Jlama does."""

    def taken(planned: PlannedTensor, start: int, stop: int) -> Encoded:
        tensor = rounded[planned.source.name]
        assert tensor.scales is not None  # it has blocks
        row_bytes = tensor.cols * tensor.dtype.bits // 8
        data = tensor.data[start * row_bytes : stop * row_bytes]
        scales = np.ascontiguousarray(tensor.scales[start:stop], np.float32)
        return Encoded.compared(data, scales, tensor.dtype, planned.source.dequantize(start, stop))

    def searched(planned: PlannedTensor, start: int, stop: int) -> Encoded:
        dtype, weight = planned.target.dtype, planned.source.dequantize(start, stop)
        if not np.isfinite(weight).all():  # refused by whoever gets this
            shape = (stop - start, planned.source.cols // BLOCK_SIZE)
            return Encoded(np.empty(0, np.uint8), np.zeros(shape, np.float32), False, 0.0, 0.0)
        fit = Fitter(Levels.of(dtype), half=options.scales == "f16")
        integers, scales = search(weight, None, fit)
        return Encoded.compared(pack(integers, dtype), scales, dtype, weight)

    def plain(planned: PlannedTensor, start: int, stop: int) -> Encoded:
        return encode(planned.source, planned.target.dtype, start, stop)

    other = plain if options.method == "absmax" else searched
    return lambda planned, start, stop: (taken if planned.source.name in rounded else other)(
        planned, start, stop
    )
