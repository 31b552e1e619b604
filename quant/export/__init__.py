"""Bridges to other programs' formats: out to GGUF, Hugging Face and compressed-tensors, in from GGUF."""

from __future__ import annotations

from cg.quant.export.gguf_export import export_gguf
from cg.quant.export.report import ExportResult
from cg.quant.export.rounding import Rounding

__all__ = ["ExportResult", "Rounding", "export_gguf"]
