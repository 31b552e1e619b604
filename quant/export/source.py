"""A checkpoint to export: checked to be a Gemma model, read tensor by tensor in pieces of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cg import __version__
from cg.quant.export.names import EMBEDDING, HEAD
from cg.quant.provenance import Source, identify
from cg.runtime.config import GemmaConfig
from cg.runtime.errors import CheckpointError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.jlama import SCALES_SUFFIX
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.loading import load_gemma
from cg.runtime.tensor import Tensor
from cg.runtime.tokenizer import Tokenizer

__all__ = ["OpenSource", "open_source", "row_ranges"]

_PIECE_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class OpenSource:
    """A checkpoint that has every tensor of a Gemma model, and nothing else."""

    checkpoint: Checkpoint
    config: GemmaConfig
    tokenizer: Tokenizer
    origin: Source
    tensors: tuple[Tensor, ...]
    """In the order of files and data, without a head that only repeats the embedding."""
    notes: tuple[str, ...]
    _places: dict[str, tuple[SafetensorsFile, int, int]]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.checkpoint.folder

    @property
    def provenance(self) -> dict[str, str]:
        """What is known about its origin, and that this version exported it: strings under ``cg.*``."""
        told = {k: v for k, v in self.checkpoint.metadata.items() if k.startswith("cg.")}
        return {**told, "cg.export_version": __version__}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, scales included."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def release(self, tensor: Tensor) -> None:
        """Give the pages of a tensor that is done with back to the system."""
        for name in (tensor.name, tensor.name + SCALES_SUFFIX):
            if name in self._places:
                shard, begin, end = self._places[name]
                shard.release(begin, end)


@contextmanager
def open_source(folder: Path) -> Iterator[OpenSource]:
    """Open and check a folder, original or quantized.

    Raises:
        CheckpointError: it is not a Gemma model, lacks a tensor, or has one that Gemma has not.
        FormatError: a malformed file.
    """
    with Checkpoint.open(folder) as checkpoint:
        config = load_gemma(checkpoint, backend="numpy").config  # looks every tensor up
        tokenizer = Tokenizer.load(folder)
        tensors, notes = _known_tensors(checkpoint)
        places = {e.name: (s, e.begin, e.end) for s in checkpoint.shards for e in s.header.entries}
        yield OpenSource(checkpoint, config, tokenizer, identify(folder), tensors, notes, places)


def row_ranges(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """The rows of a matrix in pieces of a few megabytes, as ``(start, stop)``."""
    step = max(1, _PIECE_ELEMENTS // max(tensor.cols, 1))
    for start in range(0, tensor.rows, step):
        yield start, min(start + step, tensor.rows)


def _known_tensors(checkpoint: Checkpoint) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    tensors = dict(checkpoint.tensors)
    notes: tuple[str, ...] = ()
    head = tensors.pop(HEAD, None)
    if head is not None:
        if not _same(head, tensors[EMBEDDING]):
            raise CheckpointError(
                f"{checkpoint.folder}: {HEAD} differs from {EMBEDDING}; other programs know Gemma only with "
                "the two tied"
            )
        notes = (f"{HEAD} repeats {EMBEDDING} and is left out",)
    return tuple(tensors.values()), notes


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype is not b.dtype or a.shape != b.shape or bytes(a.data.data) != bytes(b.data.data):
        return False
    return a.scales is None or b.scales is None or a.scales.tobytes() == b.scales.tobytes()
