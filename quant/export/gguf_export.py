"""A checkpoint as one GGUF file, for llama.cpp, Ollama and their relatives.

Integers go over as they are, Q4 as Q4_0 and I8 as Q8_0; scales become f16, which is what GGUF has. Norms are
float32 and hold 1 + w, what llama.cpp's Gemma multiplies with. Source of the layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cg.quant.export.blocks import GGUF_BLOCK_BYTES, to_gguf
from cg.quant.export.gguf_file import MAGIC
from cg.quant.export.gguf_metadata import add_metadata
from cg.quant.export.names import gguf_name, is_norm
from cg.quant.export.packages import gguf_package
from cg.quant.export.report import ExportResult, Progress, Recorder
from cg.quant.export.rounding import Rounding, narrow
from cg.quant.export.source import OpenSource, open_source, row_ranges
from cg.quant.export.vocabulary import read_pieces
from cg.quant.staged_file import StagedFile
from cg.quant.staging import output_errors
from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.prompts.chat import ChatTemplate
from cg.runtime.tensor import Tensor

__all__ = ["GGUF_TYPES", "export_gguf"]

GGUF_TYPES = {DType.Q4: "Q4_0", DType.I8: "Q8_0", DType.F32: "F32", DType.F16: "F16", DType.BF16: "BF16"}
"""Our types by their names in GGUF."""

_ALIGNMENT = 32  # of every tensor's data, unless the file says otherwise
_HEADER_BYTES = 1 << 20  # for the space check: more than the rest of the header takes
_HEADER_BYTES_PER_TOKEN = 64  # a text's length, the text, its score, its type: more than they take


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """What is written for a tensor."""

    source: Tensor
    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


def export_gguf(
    source: Path,
    out: Path,
    *,
    vocabulary: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the model in ``source``, original or quantized, to the file ``out``.

    Streams: a few megabytes of memory, whatever the model's size, and the vocabulary. The file appears
    complete or not at all. Without its ``vocabulary`` the file takes and gives token ids only.

    Raises:
        UsageError: a package is not installed.
        FormatError: the source is malformed, or not a Gemma model.
        NonFiniteError: a scale is too large for f16, or not a number.
        OutputExistsError, DiskFullError, OutputError: the output cannot be written.
    """
    started = time.monotonic()
    gguf = gguf_package()
    with open_source(source) as opened:
        targets = [_target(tensor) for tensor in opened.tensors]
        pieces = read_pieces(opened.folder, opened.tokenizer) if vocabulary else None
        pieces = pieces and pieces.padded(opened.config.vocab_size)
        template = ChatTemplate.load(opened.folder, opened.tokenizer).source
        recorder = Recorder(progress, opened.nbytes)
        with (
            StagedFile(out, overwrite=overwrite, magic=MAGIC) as staged,
            output_errors(staged.target),
        ):
            needed = sum(_padded(t.nbytes) for t in targets) + _HEADER_BYTES
            staged.check_space(needed + _HEADER_BYTES_PER_TOKEN * opened.config.vocab_size)
            writer = gguf.GGUFWriter(staged.path, "gemma")
            try:
                add_metadata(gguf, writer, opened, pieces, template)
                _write_header(gguf, writer, targets)
            finally:
                writer.close()
            with staged.path.open("ab") as file:
                _write_data(file, targets, opened, recorder)
                size = file.tell()
            staged.commit()
        return recorder.result(staged.target, size, (*staged.notes, *opened.notes), started)


def _target(tensor: Tensor) -> _Target:
    name = gguf_name(tensor.name)
    if is_norm(tensor.name):
        return _Target(tensor, name, DType.F32, (tensor.size,), 4 * tensor.size)
    if tensor.dtype in GGUF_BLOCK_BYTES:
        nbytes = tensor.size // BLOCK_SIZE * GGUF_BLOCK_BYTES[tensor.dtype]
        return _Target(tensor, name, tensor.dtype, tensor.shape, nbytes)
    return _Target(tensor, name, tensor.dtype, tensor.shape, tensor.nbytes)


def _write_header(gguf: Any, writer: Any, targets: list[_Target]) -> None:
    """The package lays the tensors out in this order, each at a multiple of the alignment."""
    for target in targets:
        kind = gguf.GGMLQuantizationType[GGUF_TYPES[target.dtype]]
        writer.add_tensor_info(target.name, target.shape, np.dtype(np.float32), target.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _write_data(file: BinaryIO, targets: list[_Target], opened: OpenSource, recorder: Recorder) -> None:
    for target in targets:
        _pad(file)
        for piece, source_bytes, rounding in _pieces(target):
            file.write(np.ascontiguousarray(piece).view(np.uint8).data)
            recorder.add(target.source.name, source_bytes, rounding)
        recorder.types[GGUF_TYPES[target.dtype]] += 1
        opened.release(target.source)
    _pad(file)
    file.flush()
    os.fsync(file.fileno())


def _pieces(target: _Target) -> Iterator[tuple[NDArray[Any], int, Rounding | None]]:
    """The data in order, each with the bytes of the source that it comes from."""
    tensor = target.source
    if is_norm(tensor.name):
        yield tensor.dequantize().reshape(-1) + np.float32(1), tensor.nbytes, None
        return
    rows = tensor.storage()
    for start, stop in row_ranges(tensor):
        piece: NDArray[Any] = rows[start:stop]
        if tensor.scales is None:
            yield piece, piece.nbytes, None
            continue
        scales = np.ascontiguousarray(tensor.scales[start:stop]).astype(np.float32, copy=False)
        halves, rounding = narrow(scales, DType.F16, f"{tensor.name}, a scale in rows {start} to {stop - 1}")
        blocks = to_gguf(np.ascontiguousarray(piece).view(np.uint8).reshape(-1), halves, tensor.dtype)
        yield blocks, piece.nbytes + scales.nbytes, rounding


def _pad(file: BinaryIO) -> None:
    file.write(bytes(_padded(file.tell()) - file.tell()))


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
