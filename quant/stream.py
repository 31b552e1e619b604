"""Stream a checkpoint through the encoder: mapped source in, blocks out, a few megabytes in between.

Pieces of a few hundred thousand elements are encoded by a pool of threads and written by the calling one in
order, so the bytes do not depend on the number of threads. One more thread hashes the source files.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cg.quant.distortion import Distortion
from cg.quant.encoders import Encode
from cg.quant.plan import PlannedTensor, QuantizeOptions
from cg.quant.schemes import Encoded
from cg.runtime.cores import physical_cores
from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import NonFiniteError
from cg.runtime.formats.jlama import SCALES_SUFFIX
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.formats.writer import SafetensorsWriter
from cg.runtime.tensor import Tensor

__all__ = ["Advance", "stream", "thread_count"]

Advance = Callable[[str, int], None]
"""Called after each piece with the tensor's name and the source bytes done since the last call."""

_PIECE_ELEMENTS = 1 << 18


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of a matrix to encode, or some bytes of a tensor to copy."""

    planned: PlannedTensor
    start: int
    stop: int
    begin: int
    """First byte of the piece in the source file."""
    end: int


def stream(
    plan: Sequence[tuple[SafetensorsFile, Sequence[PlannedTensor]]],
    writer: SafetensorsWriter,
    options: QuantizeOptions,
    encode: Encode,
    advance: Advance,
) -> tuple[dict[str, Distortion], dict[str, str]]:
    """Write all tensors: per-tensor distortion by name, and SHA-256 of the source files by file name.

    Raises:
        NonFiniteError: NaN or infinity in a tensor to quantize, unless the options allow it.
        OSError: the output cannot be written.
    """
    threads = thread_count(options)
    distortions: dict[str, Distortion] = {}
    checksums: dict[str, str] = {}
    workers = ThreadPoolExecutor(threads, "cg-encode")
    hasher = ThreadPoolExecutor(1, "cg-hash")
    try:
        for shard, tensors in plan:
            digest = hashlib.sha256(shard.raw[: shard.header.data_start].data)
            pending: deque[tuple[_Piece, Future[Encoded] | None, Future[None]]] = deque()

            def finish_oldest(
                shard: SafetensorsFile = shard,
                pending: deque[tuple[_Piece, Future[Encoded] | None, Future[None]]] = pending,
            ) -> None:
                piece, encoding, hashing = pending.popleft()
                _write(piece, None if encoding is None else encoding.result(), writer, distortions, options)
                hashing.result()
                shard.release(piece.begin, piece.end)
                advance(piece.planned.source.name, piece.end - piece.begin)

            for piece in _pieces(tensors):
                hashing = hasher.submit(digest.update, shard.raw[piece.begin : piece.end].data)
                encoding = None
                if piece.planned.is_quantized:
                    encoding = workers.submit(encode, piece.planned, piece.start, piece.stop)
                pending.append((piece, encoding, hashing))
                if len(pending) > 2 * threads:
                    finish_oldest()
            while pending:
                finish_oldest()
            checksums[shard.path.name] = digest.hexdigest()
    finally:  # an error or Ctrl-C does not wait for work that nobody needs any more
        workers.shutdown(cancel_futures=True)
        hasher.shutdown(cancel_futures=True)
    return distortions, checksums


def _pieces(tensors: Sequence[PlannedTensor]) -> Iterator[_Piece]:
    for planned in tensors:
        source = planned.source
        if planned.is_quantized:
            unit = source.cols * source.dtype.bits // 8
            units, step = source.rows, max(1, _PIECE_ELEMENTS // source.cols)
        else:
            unit, units, step = 1, source.data.nbytes, 2 * _PIECE_ELEMENTS
        for start in range(0, units, step):
            stop = min(start + step, units)
            yield _Piece(planned, start, stop, planned.begin + start * unit, planned.begin + stop * unit)


def _write(
    piece: _Piece,
    encoded: Encoded | None,
    writer: SafetensorsWriter,
    distortions: dict[str, Distortion],
    options: QuantizeOptions,
) -> None:
    source, name = piece.planned.source, piece.planned.source.name
    if encoded is None:
        writer.write(name, piece.start, source.data[piece.start : piece.stop])
        return
    if not encoded.finite and not options.allow_nonfinite:
        raise _non_finite(source, piece.start, piece.stop)
    writer.write(name, piece.start * source.cols * piece.planned.target.dtype.bits // 8, encoded.data)
    scale_bytes = source.cols // BLOCK_SIZE * DType.F32.bits // 8
    writer.write(name + SCALES_SUFFIX, piece.start * scale_bytes, encoded.scales)
    distortions[name] = distortions.get(name, Distortion()) + Distortion(encoded.sum_sq, encoded.sum_sq_error)


def _non_finite(source: Tensor, start: int, stop: int) -> NonFiniteError:
    bad = ~np.isfinite(source.dequantize(start, stop))
    row, column = (int(i) for i in np.argwhere(bad)[0])
    return NonFiniteError(
        f"tensor {source.name} has NaN or infinity in it, first in row {start + row}, column {column}",
        hint="the checkpoint is damaged; --allow-nonfinite quantizes it the way Jlama does",
    )


def thread_count(options: QuantizeOptions) -> int:
    """Threads that encode: as asked, else one per physical core."""
    return options.threads or physical_cores()
