"""A GGUF file of llama.cpp's Gemma as a model folder that cg runs.

Q4_0 becomes Q4 and Q8_0 I8, integers and scales the same to the bit; F32, F16 and BF16 stay. Other types cg
cannot compute with; they can be expanded to floats by the package gguf. Norms lose the 1 that GGUF added.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cg import __version__
from cg.quant.companions import json_bytes, write_file
from cg.quant.export.blocks import GGUF_BLOCK_BYTES, from_gguf
from cg.quant.export.floats import FloatType
from cg.quant.export.folder import FolderTensor, Piece, weights_size, write_weights
from cg.quant.export.gguf_file import GgufFile, GgufTensor
from cg.quant.export.gguf_settings import (
    check_model,
    config_of,
    pieces_of,
    special_ids,
    tokenizer_settings,
)
from cg.quant.export.names import hugging_face_name, is_norm
from cg.quant.export.packages import gguf_package
from cg.quant.export.report import ExportResult, Progress, Recorder
from cg.quant.export.rounding import narrow, widen
from cg.quant.export.source import open_source
from cg.quant.export.vocabulary import model_file
from cg.quant.staging import StagedFolder, check_apart, output_errors
from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import CheckpointError, FormatError, UsageError
from cg.runtime.formats.checkpoint import CONFIG_NAME
from cg.runtime.formats.jlama import SCALES_SUFFIX
from cg.runtime.formats.writer import TensorSpec

__all__ = ["import_gguf"]

_BLOCKS = {"Q4_0": DType.Q4, "Q8_0": DType.I8}
_FLOATS = {"F32": DType.F32, "F16": DType.F16, "BF16": DType.BF16}
_PIECE_BYTES = 1 << 21
_SMALL_FILES = 1 << 20  # bytes of config.json, tokenizer_config.json and README.md, for the space check


def import_gguf(
    file: Path,
    out: Path,
    *,
    dequantize: FloatType | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the model in ``file`` to the new folder ``out``, which appears complete or not at all.

    ``dequantize`` is the type for tensors in blocks that cg has not; without it they are an error.

    Raises:
        UsageError: such a tensor, a package that is not installed, or a file that is one of several.
        FormatError: the file is malformed, or not of a Gemma model.
        NonFiniteError: an expanded number does not fit the type.
        OutputExistsError, DiskFullError, OutputError: the output cannot be written.
    """
    started = time.monotonic()
    check_apart(file, out)
    with GgufFile(file) as opened:
        check_model(opened)
        pieces = pieces_of(opened)
        special = special_ids(opened, pieces)
        config, settings = config_of(opened, special), tokenizer_settings(opened, pieces, special)
        model = model_file(pieces)
        tensors = [_target(opened, tensor, dequantize) for tensor in opened.tensors.values()]
        metadata = _provenance(opened)
        recorder = Recorder(progress, sum(t.data.nbytes for t in opened.tensors.values()))
        with StagedFolder(out, overwrite=overwrite) as staged, output_errors(staged.target):
            staged.check_space(weights_size(tensors, metadata, None) + len(model) + _SMALL_FILES)
            written = write_weights(staged.path, tensors, metadata, recorder)
            write_file(staged.path / CONFIG_NAME, json_bytes(config))
            write_file(staged.path / "tokenizer.model", model)
            write_file(staged.path / "tokenizer_config.json", json_bytes(settings))
            write_file(staged.path / "README.md", _card(opened).encode())
            _check(staged.path, file)
            staged.commit()
        return recorder.result(staged.target, written, staged.notes, started)


def _target(file: GgufFile, tensor: GgufTensor, dequantize: FloatType | None) -> FolderTensor:
    name = hugging_face_name(tensor.name)
    release = partial(file.release, tensor)
    if is_norm(name):
        weight = _norm(file, tensor)
        bf16, rounding = narrow(weight, DType.BF16, tensor.name)
        dtype = DType.BF16 if rounding.exact else DType.F32
        piece = Piece(name, bf16 if rounding.exact else weight, tensor.data.nbytes)
        spec = TensorSpec(name, dtype, weight.shape)
        return FolderTensor(spec, dtype.value, lambda: iter([piece]), release)
    if len(tensor.shape) != 2:
        raise CheckpointError(f"{file.path}: {tensor.name} has the shape {list(tensor.shape)}, no matrix")
    if tensor.type in _BLOCKS:
        dtype = _BLOCKS[tensor.type]
        return FolderTensor(
            TensorSpec(name, dtype, tensor.shape), dtype.value, partial(_blocks, tensor, name, dtype), release
        )
    if tensor.type in _FLOATS:
        dtype = _FLOATS[tensor.type]
        return FolderTensor(
            TensorSpec(name, dtype, tensor.shape), dtype.value, partial(_copy, tensor, name), release
        )
    if dequantize is None:
        kinds = sorted({t.type for t in file.tensors.values()} - {*_BLOCKS, *_FLOATS})
        raise UsageError(
            f"{file.path}: {tensor.name} is {tensor.type}, which cg cannot compute with",
            hint=f"--dequantize bf16 or f32 expands {', '.join(kinds)} to floats",
        )
    dtype = DType(dequantize.upper())
    return FolderTensor(
        TensorSpec(name, dtype, tensor.shape),
        f"{dtype.value} from {tensor.type}",
        partial(_expand, tensor, name, dtype),
        release,
    )


def _norm(file: GgufFile, tensor: GgufTensor) -> Any:
    if tensor.type not in _FLOATS or len(tensor.shape) != 1:
        raise CheckpointError(
            f"{file.path}: {tensor.name} is {tensor.type} {list(tensor.shape)}, expected a vector of floats"
        )
    dtype = _FLOATS[tensor.type]
    return widen(tensor.data.view(dtype.storage), dtype) - np.float32(1)


def _blocks(tensor: GgufTensor, name: str, dtype: DType) -> Iterator[Piece]:
    row_bytes = tensor.shape[1] // BLOCK_SIZE * GGUF_BLOCK_BYTES[dtype]
    for data in _rows(tensor, row_bytes):
        integers, scales = from_gguf(data, dtype)
        yield Piece(name, integers, data.nbytes)
        yield Piece(name + SCALES_SUFFIX, scales, 0)


def _copy(tensor: GgufTensor, name: str) -> Iterator[Piece]:
    for data in _rows(tensor, 1):
        yield Piece(name, data, data.nbytes)


def _expand(tensor: GgufTensor, name: str, dtype: DType) -> Iterator[Piece]:
    gguf = gguf_package()
    kind = gguf.GGMLQuantizationType[tensor.type]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    row_bytes = tensor.shape[1] // block * block_bytes
    for data in _rows(tensor, row_bytes):
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked below
                floats = gguf.dequantize(data.reshape(-1, row_bytes), kind)
        except NotImplementedError:
            raise UsageError(
                f"{tensor.name} is {tensor.type}, which the package gguf cannot expand"
            ) from None
        stored, rounding = narrow(np.ascontiguousarray(floats, np.float32), dtype, tensor.name)
        yield Piece(name, stored, data.nbytes, rounding)


def _rows(tensor: GgufTensor, row_bytes: int) -> Iterator[Any]:
    """Whole rows at a time."""
    step = max(1, _PIECE_BYTES // max(row_bytes, 1)) * row_bytes
    for start in range(0, tensor.data.nbytes, max(step, 1)):
        yield tensor.data[start : start + step]


def _provenance(file: GgufFile) -> dict[str, str]:
    """What the file's metadata say about its origin."""
    kept = {k: v for k, v in file.metadata.items() if k.startswith("cg.") and isinstance(v, str)}
    name = file.metadata.get("general.name")
    if "cg.source" not in kept and isinstance(name, str):
        kept["cg.source"] = name
    return {"format": "pt", **kept, "cg.imported_from": file.path.name, "cg.import_version": __version__}


def _card(file: GgufFile) -> str:
    license_name = file.metadata.get("general.license")
    told = isinstance(license_name, str) and license_name.isprintable()
    front = f"---\nlicense: {license_name}\n---\n\n" if told else ""
    return f"{front}# {file.path.stem}\n\nImported by cg {__version__} from {file.path.name}.\n"


def _check(folder: Path, file: Path) -> None:
    """What was written loads; otherwise the file was no model after all.

    Raises:
        CheckpointError: it does not load.
    """
    try:
        with open_source(folder):
            pass
    except FormatError as error:
        message = error.message.replace(str(folder), str(file))
        raise CheckpointError(message, hint=error.hint) from error
