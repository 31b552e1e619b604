"""A model folder with floats only, as transformers reads it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cg import __version__
from cg.quant.companions import companion_files, copy_companions, json_bytes, write_file
from cg.quant.export.floats import FloatType, float_tensor
from cg.quant.export.folder import FolderTensor, weights_size, write_weights
from cg.quant.export.report import ExportResult, Progress, Recorder
from cg.quant.export.source import OpenSource, open_source
from cg.quant.model_card import front_matter
from cg.quant.staging import StagedFolder, check_apart, output_errors
from cg.runtime.dtypes import DType
from cg.runtime.formats.checkpoint import CONFIG_NAME

__all__ = ["SHARD_BYTES", "export_safetensors", "float_config", "write_folder"]

SHARD_BYTES = 5_000_000_000
"""The largest file, unless a single tensor is larger."""

_TORCH_NAMES = {DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16"}
_SMALL_FILES = 1 << 20  # bytes of config.json and README.md, for the space check


def export_safetensors(
    source: Path,
    out: Path,
    *,
    dtype: FloatType = "bf16",
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the model in ``source``, original or quantized, to the new folder ``out``, all in ``dtype``.

    f32 holds exactly what cg computes with. Streams: a few megabytes of memory. The folder appears complete
    or not at all.

    Raises:
        UsageError: source and output overlap.
        FormatError: the source is malformed, or not a Gemma model.
        NonFiniteError: a weight is too large for the type, or not a number.
        OutputExistsError, DiskFullError, OutputError: the output cannot be written.
    """
    kind = DType(dtype.upper())
    check_apart(source, out)
    with open_source(source) as opened:
        tensors = [float_tensor(opened, tensor, kind) for tensor in opened.tensors]
        config = float_config(opened, kind)
        return write_folder(
            opened, out, tensors, config, shard_bytes=shard_bytes, overwrite=overwrite, progress=progress
        )


def float_config(source: OpenSource, dtype: DType) -> dict[str, Any]:
    """config.json for a model that is to be computed with in ``dtype``."""
    config = {**source.checkpoint.config, "torch_dtype": _TORCH_NAMES[dtype]}
    config.pop("dtype", None)  # transformers' newer name for it
    return config


def write_folder(
    source: OpenSource,
    out: Path,
    tensors: Sequence[FolderTensor],
    config: Mapping[str, Any],
    *,
    shard_bytes: int,
    overwrite: bool,
    progress: Progress | None,
) -> ExportResult:
    """Weights, config.json, README.md and the source's tokenizer files; the folder appears at once."""
    started = time.monotonic()
    companions = companion_files(source.folder)
    metadata = {"format": "pt", **source.provenance}
    recorder = Recorder(progress, source.nbytes)
    with StagedFolder(out, overwrite=overwrite) as staged, output_errors(staged.target):
        needed = weights_size(tensors, metadata, shard_bytes) + _SMALL_FILES
        staged.check_space(needed + sum(file.stat().st_size for file in companions))
        written = write_weights(staged.path, tensors, metadata, recorder, shard_bytes)
        write_file(staged.path / CONFIG_NAME, json_bytes(config))
        write_file(staged.path / "README.md", _card(source, recorder).encode())
        copy_companions(companions, staged.path)
        staged.commit()
    return recorder.result(staged.target, written, (*staged.notes, *source.notes), started)


def _card(source: OpenSource, recorder: Recorder) -> str:
    fields = [f"{key}: {value}" for key, value in front_matter(source.folder).items()]
    front = "\n".join(["---", *fields, "---", "", ""]) if fields else ""
    types = ", ".join(f"{count} tensors {kind}" for kind, count in sorted(recorder.types.items()))
    return (
        f"{front}# {source.origin.name}\n\nExported by cg {__version__} from {source.origin.name}: {types}.\n"
    )
