"""Write the f16 scales of a Q4 model to a side file, which :mod:`cg.runtime.optimized` reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cg import __version__
from cg.quant.folder_swap import sync_folder
from cg.quant.staging import output_errors
from cg.runtime.cache_file import prune, replacing
from cg.runtime.dtypes import DType
from cg.runtime.errors import OutputError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.jlama import SCALES_SUFFIX, scales_shape
from cg.runtime.formats.summary import summarize
from cg.runtime.formats.writer import SafetensorsWriter, TensorSpec
from cg.runtime.home import optimized_file
from cg.runtime.optimized import FORMAT, FORMAT_KEY, SHARDS_KEY, OptimizedScales, identity, open_scales
from cg.runtime.tensor import Tensor

__all__ = ["LeftTensor", "OptimizeResult", "Progress", "exact_halves", "optimize", "remove_scales"]

_CHUNK = 1 << 20  # scales in memory at a time

Progress = Callable[[str, int, int], None]
"""Called with a tensor's name and how many of all scales are done; each is read twice."""


@dataclass(frozen=True, slots=True)
class LeftTensor:
    """A Q4 tensor that keeps its f32 scales."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """What :func:`optimize` wrote, or found to be there already."""

    folder: Path
    file: Path
    written: bool
    """False where the side file was there and fits."""
    converted: int
    """Tensors with f16 scales."""
    left: tuple[LeftTensor, ...]
    bytes: int
    """Size of the side file."""
    bits_per_weight_before: float
    """Of all tensors, scales included."""
    bits_per_weight: float
    seconds: float


def optimize(folder: Path, *, overwrite: bool = False, progress: Progress | None = None) -> OptimizeResult:
    """Make the f16 scales of the model in ``folder``, unless those that are there fit.

    A tensor is converted if f16 holds every one of its scales to the bit. The side file appears complete or
    not at all; the model is not touched.

    Raises:
        UsageError: the model has no Q4 tensors, or f16 holds the scales of none of them.
        FormatError: the model is malformed.
        DiskFullError, OutputError: the side file cannot be written.
    """
    started = time.monotonic()
    with Checkpoint.open(folder) as checkpoint:
        candidates = [t for t in checkpoint.tensors.values() if t.dtype is DType.Q4 and t.size]
        if not candidates:
            raise UsageError(
                f"{folder} has no Q4 tensors, whose scales could be optimized",
                hint="cg quantize makes a Q4 model",
            )
        file = _place(folder)
        # What fits is recognized with CG_OPTIMIZED=0 too, which is about running.
        found = open_scales(checkpoint, ignore_switch=True)
        if found.state == "fits" and not overwrite:
            kept = [
                LeftTensor(t.name, "f16 does not hold all of its scales")
                for t in candidates
                if t.name not in found.tensors
            ]
            return _result(checkpoint, file, found, kept, written=False, started=started)
        del found  # Windows does not replace a file that is mapped
        shards = identity(checkpoint)  # before anything is read: the model may be replaced meanwhile
        done = _Count(progress, 2 * sum(_scales(t).size for t in candidates))
        chosen, left = _choose(candidates, done)
        if not chosen:
            raise UsageError(
                f"{folder}: f16 does not hold all scales of any of its {len(candidates)} Q4 tensors",
                hint="there is nothing to optimize; the model runs as it is",
            )
        _write(file, chosen, shards, done)
        found = open_scales(checkpoint, ignore_switch=True)
        if found.state != "fits":
            raise OutputError(f"{folder} changed while its scales were written", hint="try again")
        return _result(checkpoint, file, found, left, written=True, started=started)


def remove_scales(folder: Path) -> Path | None:
    """Delete the side file of the model in ``folder``; its path, or None if there was none.

    Raises:
        OutputError: it cannot be deleted.
    """
    file = _place(folder)
    with output_errors(file):
        try:
            file.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return file


def exact_halves(scales: NDArray[np.float32]) -> tuple[NDArray[np.float16], int]:
    """Scales in f16, and how many of them it does not hold to the bit; NaN and infinity count among those."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        halves = scales.astype(np.float16)
        same = halves.astype(np.float32).view(np.uint32) == scales.view(np.uint32)
    return halves, int(scales.size - np.count_nonzero(same & np.isfinite(scales)))


class _Chunk(NamedTuple):
    """Rows of a tensor's scales in f16."""

    row: int
    halves: NDArray[np.float16]
    inexact: int


class _Count:
    """How many scales are done, for the progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def add(self, name: str, scales: int) -> None:
        self._done += scales
        if self._progress is not None:
            self._progress(name, self._done, self._total)


def _choose(candidates: list[Tensor], done: _Count) -> tuple[list[Tensor], list[LeftTensor]]:
    chosen: list[Tensor] = []
    left: list[LeftTensor] = []
    for tensor in candidates:
        inexact = sum(chunk.inexact for chunk in _chunks(tensor, done))
        if inexact:
            reason = f"f16 does not hold {inexact:,} of its {_scales(tensor).size:,} scales"
            left.append(LeftTensor(tensor.name, reason))
        else:
            chosen.append(tensor)
    return chosen, left


def _chunks(tensor: Tensor, done: _Count) -> Iterator[_Chunk]:
    scales = _scales(tensor)
    rows = max(1, _CHUNK // scales.shape[1])
    for row in range(0, len(scales), rows):
        piece = np.ascontiguousarray(scales[row : row + rows])
        yield _Chunk(row, *exact_halves(piece))
        done.add(tensor.name, piece.size)


def _write(file: Path, chosen: list[Tensor], shards: str, done: _Count) -> None:
    specs = [TensorSpec(t.name + SCALES_SUFFIX, DType.F16, scales_shape(t.shape)) for t in chosen]
    metadata = {"cg.version": __version__, FORMAT_KEY: FORMAT, SHARDS_KEY: shards}
    with (
        output_errors(file),
        replacing(file) as partial,
        SafetensorsWriter(partial, specs, metadata) as writer,
    ):
        for tensor, spec in zip(chosen, specs, strict=True):
            row_bytes = 2 * spec.shape[1]
            for chunk in _chunks(tensor, done):
                writer.write(spec.name, chunk.row * row_bytes, chunk.halves)
        writer.finish(metadata)
    with output_errors(file):
        sync_folder(file.parent)
        prune((), file.parent, most=0)  # what killed runs left


def _place(folder: Path) -> Path:
    file = optimized_file(folder)
    if file is None:
        raise OutputError("there is no home folder for optimized scales", hint="set CG_HOME to a folder")
    return file


def _result(
    checkpoint: Checkpoint,
    file: Path,
    scales: OptimizedScales,
    left: list[LeftTensor],
    *,
    written: bool,
    started: float,
) -> OptimizeResult:
    _, before = summarize(checkpoint.tensors.values())
    _, after = summarize(scales.applied_to(checkpoint.tensors).values())
    return OptimizeResult(
        folder=checkpoint.folder,
        file=file,
        written=written,
        converted=len(scales.tensors),
        left=tuple(left),
        bytes=file.stat().st_size,
        bits_per_weight_before=before.bits_per_weight,
        bits_per_weight=after.bits_per_weight,
        seconds=time.monotonic() - started,
    )


def _scales(tensor: Tensor) -> NDArray[np.float32]:
    assert tensor.scales is not None  # Q4
    return tensor.scales.view(np.float32)  # as the model's file has them
