"""A model folder in compressed-tensors' format ``pack-quantized``, which vLLM runs.

Q4's integers go over as they are: both formats have groups of 32 and no zero point. A matrix ``NAME.weight``
becomes ``NAME.weight_packed`` (int32 ``[rows, cols / 8]``), ``NAME.weight_scale`` ``[rows, cols / 32]`` and
``NAME.weight_shape``. Source: the package compressed-tensors, ``compressors/pack_quantized``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cg.quant.export.blocks import to_int32_words
from cg.quant.export.floats import float_tensor
from cg.quant.export.folder import FolderTensor, Piece
from cg.quant.export.hugging_face import SHARD_BYTES, float_config, write_folder
from cg.quant.export.names import EMBEDDING, is_norm
from cg.quant.export.report import ExportResult, Progress
from cg.quant.export.rounding import narrow
from cg.quant.export.source import OpenSource, open_source, row_ranges
from cg.quant.staging import check_apart
from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import NonFiniteError, UsageError
from cg.runtime.formats.jlama import scales_shape
from cg.runtime.formats.writer import TensorSpec
from cg.runtime.tensor import Floats, Tensor

__all__ = ["export_compressed_tensors"]

_WEIGHT = ".weight"


def export_compressed_tensors(
    source: Path,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the Q4 model in ``source`` to the new folder ``out``.

    Scales, and weights that have to be expanded (the embedding, I8), are f16 if that holds all scales, else
    bf16 if that does, else f32. Programs compute in the type that config.json then names, so no scale is
    rounded on the way.

    Raises:
        UsageError: source and output overlap, or the source has no Q4 matrix but the embedding.
        FormatError: the source is malformed, or not a Gemma model.
        NonFiniteError: a scale is not a number.
        OutputExistsError, DiskFullError, OutputError: the output cannot be written.
    """
    check_apart(source, out)
    with open_source(source) as opened:
        packed = [t for t in opened.tensors if t.dtype is DType.Q4 and t.name != EMBEDDING]
        if not packed:
            raise UsageError(
                f"{source} has no Q4 matrices that could be packed",
                hint="cg quantize makes a Q4 model; cg export safetensors writes floats",
            )
        dtype = _scale_type(packed)
        tensors: list[FolderTensor] = []
        for tensor in opened.tensors:
            if tensor in packed:
                tensors += _packed(opened, tensor, dtype)
            else:
                kept = dtype if tensor.dtype.is_quantized else tensor.dtype
                tensors.append(float_tensor(opened, tensor, kept))
        config = float_config(opened, dtype)
        config["quantization_config"] = _quantization_config(opened.tensors, packed)
        return write_folder(
            opened, out, tensors, config, shard_bytes=shard_bytes, overwrite=overwrite, progress=progress
        )


def _quantization_config(tensors: Sequence[Tensor], packed: Sequence[Tensor]) -> dict[str, Any]:
    """As compressed-tensors writes it; every linear layer that is not packed is named."""
    linear = [t.name for t in tensors if t.name != EMBEDDING and not is_norm(t.name)]
    names = {t.name for t in packed}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "group",
                    "group_size": BLOCK_SIZE,
                    "dynamic": False,
                },
                "input_activations": None,
                "output_activations": None,
                "format": "pack-quantized",
            }
        },
        "ignore": ["lm_head", *(name.removesuffix(_WEIGHT) for name in linear if name not in names)],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _scale_type(packed: Sequence[Tensor]) -> DType:
    """The narrowest type that holds every scale to the bit."""
    for dtype in (DType.F16, DType.BF16):
        if all(_holds(dtype, scales) for tensor in packed for scales in _scales(tensor)):
            return dtype
    return DType.F32


def _holds(dtype: DType, scales: Floats) -> bool:
    try:
        return narrow(scales, dtype, "")[1].exact
    except NonFiniteError:
        return False


def _scales(tensor: Tensor) -> Iterator[Floats]:
    assert tensor.scales is not None  # Q4
    for start, stop in row_ranges(tensor):
        yield np.ascontiguousarray(tensor.scales[start:stop]).astype(np.float32, copy=False)


def _packed(source: OpenSource, tensor: Tensor, dtype: DType) -> list[FolderTensor]:
    rows, cols = tensor.shape
    words = TensorSpec(f"{tensor.name}_packed", DType.I32, (rows, cols // 8))
    scales = TensorSpec(f"{tensor.name}_scale", dtype, scales_shape(tensor.shape))
    shape = TensorSpec(f"{tensor.name}_shape", DType.I64, (2,))
    return [
        FolderTensor(words, f"int4 packed, scales {dtype.value}", partial(_word_pieces, tensor, words.name)),
        FolderTensor(
            scales, None, partial(_scale_pieces, tensor, scales.name, dtype), partial(source.release, tensor)
        ),
        FolderTensor(shape, None, lambda: iter([Piece(shape.name, np.array(tensor.shape, np.int64), 0)])),
    ]


def _word_pieces(tensor: Tensor, name: str) -> Iterator[Piece]:
    rows = tensor.storage()
    for start, stop in row_ranges(tensor):
        packed = np.ascontiguousarray(rows[start:stop]).reshape(-1)
        yield Piece(name, to_int32_words(packed), packed.nbytes)


def _scale_pieces(tensor: Tensor, name: str, dtype: DType) -> Iterator[Piece]:
    for scales in _scales(tensor):
        stored, rounding = narrow(scales, dtype, tensor.name)
        yield Piece(name, stored, scales.nbytes, rounding)
