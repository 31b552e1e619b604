"""Where the loss arises: how far every tensor of a quantized model is from the original's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from cg.quant.distortion import Distortion
from cg.quant.report import TensorReport
from cg.quant.steps import Steps
from cg.quant.streaming import Side
from cg.runtime.cores import physical_cores
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.tensor import Tensor

__all__ = ["measure_tensors", "tensor_steps"]

_PIECE_ELEMENTS = 1 << 18
_STEP_ELEMENTS = 1 << 24


def measure_tensors(
    original: Side, quantized: Side, steps: Steps, threads: int | None = None
) -> tuple[TensorReport, ...]:
    """Compare the tensors that both have, in pieces of a few hundred thousand elements.

    A tensor that was not quantized and has the same values in both has no distortion to report, like one that
    ``cg quantize`` copied. Elements that are not finite are left out.
    """
    reports = []
    with ThreadPoolExecutor(threads or physical_cores(), "cg-compare") as workers:
        for before, after in _pairs(original.checkpoint, quantized.checkpoint):
            rows = max(1, _PIECE_ELEMENTS // max(1, before.cols))
            parts = workers.map(partial(_distortion, before, after, rows), range(0, before.rows, rows))
            whole = sum(parts, Distortion())
            kept = before.dtype is after.dtype or after.dtype.is_float
            reports.append(
                TensorReport(
                    before.name,
                    before.shape,
                    before.dtype.value,
                    after.dtype.value,
                    before.nbytes,
                    after.nbytes,
                    None if kept and whole.sum_sq_error == 0 else whole,
                )
            )
            for side in (original, quantized):
                side.checkpoint.release(before.name)
            steps.advance("tensors", _steps(before))
    return tuple(reports)


def tensor_steps(original: Checkpoint, quantized: Checkpoint) -> int:
    """The steps that :func:`measure_tensors` takes."""
    return sum(_steps(before) for before, _ in _pairs(original, quantized))


def _pairs(original: Checkpoint, quantized: Checkpoint) -> Iterator[tuple[Tensor, Tensor]]:
    for name, before in original.tensors.items():
        after = quantized.tensors.get(name)
        # Jlama writes vectors as [1, n].
        if after is not None and before.size and (before.rows, before.cols) == (after.rows, after.cols):
            yield before, after


def _distortion(before: Tensor, after: Tensor, rows: int, start: int) -> Distortion:
    stop = min(start + rows, before.rows)
    source = before.dequantize(start, stop).astype(np.float64).ravel()
    error = source - after.dequantize(start, stop).ravel()
    finite = np.isfinite(error)
    if not finite.all():
        source, error = source[finite], error[finite]
    return Distortion(float(source @ source), float(error @ error))


def _steps(tensor: Tensor) -> int:
    return max(1, tensor.size // _STEP_ELEMENTS)
