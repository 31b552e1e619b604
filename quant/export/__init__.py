"""Bridges to other programs' formats: out to GGUF, Hugging Face and compressed-tensors, in from GGUF."""

from __future__ import annotations

from cg.quant.export.compressed_tensors import export_compressed_tensors
from cg.quant.export.floats import FloatType
from cg.quant.export.gguf_export import export_gguf
from cg.quant.export.gguf_import import import_gguf
from cg.quant.export.hugging_face import export_safetensors
from cg.quant.export.report import ExportResult
from cg.quant.export.rounding import Rounding

__all__ = [
    "ExportResult",
    "FloatType",
    "Rounding",
    "export_compressed_tensors",
    "export_gguf",
    "export_safetensors",
    "import_gguf",
]
