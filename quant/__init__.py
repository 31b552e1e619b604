"""Quantizing checkpoints to Jlama's block formats, and measuring what it cost."""

from __future__ import annotations

from cg.quant.convert import QuantizeProgress, quantize
from cg.quant.distortion import Distortion
from cg.quant.half_scales import LeftTensor, OptimizeResult, optimize, remove_scales
from cg.quant.plan import QuantizeOptions
from cg.quant.report import QuantizeResult, TensorReport, Totals

__all__ = [
    "Distortion",
    "LeftTensor",
    "OptimizeResult",
    "QuantizeOptions",
    "QuantizeProgress",
    "QuantizeResult",
    "TensorReport",
    "Totals",
    "optimize",
    "quantize",
    "remove_scales",
]
