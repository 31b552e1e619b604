"""Weights into safetensors files of a new model folder, piece by piece, in one file or in shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cg.quant.companions import json_bytes, write_file
from cg.quant.export.report import Recorder
from cg.quant.export.rounding import Rounding
from cg.runtime.formats.checkpoint import INDEX_NAME, SINGLE_NAME
from cg.runtime.formats.writer import SafetensorsWriter, TensorSpec, file_size

__all__ = ["FolderTensor", "Piece", "nothing", "weights_size", "write_weights"]


class Piece(NamedTuple):
    """Consecutive bytes of a stored tensor."""

    name: str
    """The tensor's, or that of its ``.qb``."""
    data: NDArray[Any]
    source_bytes: int
    """Bytes of the source that are done with it."""
    rounding: Rounding | None = None


def nothing() -> None:
    """For a tensor that leaves nothing to release."""


@dataclass(frozen=True, slots=True, eq=False)
class FolderTensor:
    """A tensor to be written."""

    spec: TensorSpec
    kind: str | None
    """The type to count it under in the report; None for what belongs to another tensor."""
    pieces: Callable[[], Iterator[Piece]]
    """All of its data, and of its ``.qb``, each in order."""
    release: Callable[[], None] = nothing
    """Called when the tensor is written."""


def weights_size(
    tensors: Sequence[FolderTensor], metadata: Mapping[str, str], shard_bytes: int | None
) -> int:
    """Bytes of the files that :func:`write_weights` will write."""
    shards = _shards(tensors, shard_bytes)
    return sum(file_size([t.spec for t in shard], metadata) for shard in shards)


def write_weights(
    folder: Path,
    tensors: Sequence[FolderTensor],
    metadata: Mapping[str, str],
    recorder: Recorder,
    shard_bytes: int | None = None,
) -> int:
    """Write ``model.safetensors``, or shards of at most ``shard_bytes`` with an index; the bytes written.

    A tensor larger than that makes a shard of its own. Names are those of transformers.
    """
    shards = _shards(tensors, shard_bytes)
    names = [SINGLE_NAME]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {t.spec.name: name for shard, name in zip(shards, names, strict=True) for t in shard}
        total = sum(t.spec.data_bytes for t in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_file(folder / INDEX_NAME, json_bytes(index))
    written = 0
    for shard, name in zip(shards, names, strict=True):
        with SafetensorsWriter(folder / name, [t.spec for t in shard], metadata) as writer:
            for tensor in shard:
                _write(tensor, writer, recorder)
            writer.finish(metadata)
        written += writer.nbytes
    return written


def _write(tensor: FolderTensor, writer: SafetensorsWriter, recorder: Recorder) -> None:
    offsets: dict[str, int] = {}
    for piece in tensor.pieces():
        offset = offsets.get(piece.name, 0)
        writer.write(piece.name, offset, piece.data)
        offsets[piece.name] = offset + piece.data.nbytes
        recorder.add(tensor.spec.name, piece.source_bytes, piece.rounding)
    tensor.release()
    if tensor.kind is not None:
        recorder.types[tensor.kind] += 1


def _shards(tensors: Sequence[FolderTensor], limit: int | None) -> list[list[FolderTensor]]:
    shards: list[list[FolderTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if limit is not None and shards[-1] and size + tensor.spec.data_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.spec.data_bytes
    return shards
