"""Rows of the table that ``cg quantize`` prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cg.cli.output import format_size

if TYPE_CHECKING:
    from cg.quant import TensorReport

__all__ = ["grouped", "tensor_rows"]

_NUMBER = re.compile(r"\.\d+\.")


def tensor_rows(tensors: Sequence[TensorReport]) -> list[list[str]]:
    """One row per tensor."""
    return [_row(t.name, [t]) for t in tensors]


def grouped(tensors: Sequence[TensorReport]) -> list[list[str]]:
    """One row for the same tensor of all layers: ``model.layers.*.mlp.up_proj.weight``."""
    groups: dict[tuple[str, str, str], list[TensorReport]] = {}
    for t in tensors:
        groups.setdefault((_NUMBER.sub(".*.", t.name), t.source_dtype, t.dtype), []).append(t)
    return [_row(name, group) for (name, _, _), group in groups.items()]


def _row(name: str, group: Sequence[TensorReport]) -> list[str]:
    first = group[0]
    error = snr = "-"
    if first.distortion is not None:
        whole = sum((t.distortion for t in group[1:] if t.distortion is not None), first.distortion)
        error = "?" if whole.relative_error is None else f"{whole.relative_error:.4f}"
        snr = "-" if whole.snr_db is None else f"{whole.snr_db:.1f}"
    size = format_size(sum(t.bytes for t in group))
    return [name, str(len(group)), first.source_dtype, first.dtype, size, error, snr]
