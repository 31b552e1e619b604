"""Write safetensors files whose sizes are known ahead, in pieces and in any order.

The result is what Jlama's loader demands: tensors without a gap from offset 0, ``NAME`` directly followed
by ``NAME.qb``, flat string metadata and a header below 1 MiB, padded so that data starts at a multiple of 64.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cg.runtime.dtypes import DType
from cg.runtime.errors import DuplicateNameError, HeaderTooLargeError
from cg.runtime.formats.header import byte_length
from cg.runtime.formats.jlama import SCALES_SUFFIX, scales_shape

__all__ = ["MAX_WRITTEN_HEADER", "SafetensorsWriter", "TensorSpec", "file_size"]

MAX_WRITTEN_HEADER = (1 << 20) - 8
"""Bytes of header that Jlama can read: it maps the first MiB of a file and nothing more."""

_ALIGNMENT = 64
_WINDOW = 2 << 20
"""Bytes written at once, at a multiple of themselves: a file system that can keeps them in one huge page."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written; a quantized one brings its ``.qb`` tensor along."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def data_bytes(self) -> int:
        """Bytes of the tensor itself."""
        return byte_length(self.dtype, self.shape, self.name)

    @property
    def scale_bytes(self) -> int:
        """Bytes of its scales, 0 without."""
        return byte_length(DType.F32, scales_shape(self.shape), self.name) if self.dtype.is_quantized else 0


class _Window:
    """A piece of the file, collected until it can be written at once."""

    def __init__(self, length: int) -> None:
        self.content = bytearray(length)
        self._missing = length

    def fill(self, start: int, part: memoryview) -> bool:
        """Copy ``part`` to ``start``; True when nothing is missing any more."""
        self.content[start : start + len(part)] = part
        self._missing -= len(part)
        return self._missing == 0


class SafetensorsWriter:
    """A file being written: create, write pieces, :meth:`finish`.

    The header's size is fixed from the start, so metadata may change until the end if its length does not
    (a checksum that is known only after the last byte). The caller renames the file once it is complete.
    Pieces may come in any order; what lies around the gaps between them is kept in memory, 2 MiB at a time.

    Raises:
        DuplicateNameError, HeaderTooLargeError: the tensors cannot be written to one file.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> None:
        self._specs = tuple(specs)
        self._header_bytes = len(_header(self._specs, metadata))
        self._starts: dict[str, int] = {}
        end = self._header_bytes
        for spec in self._specs:
            self._starts[spec.name] = end
            end += spec.data_bytes
            if spec.dtype.is_quantized:
                self._starts[spec.name + SCALES_SUFFIX] = end
                end += spec.scale_bytes
        self.nbytes = end
        """Size of the complete file."""
        self._written = 0
        self._windows: dict[int, _Window] = {}  # those that are not full yet, by number
        self._done: set[int] = set()
        self._file: BinaryIO = path.open("xb", buffering=0)

    def write(self, name: str, offset: int, piece: NDArray[Any]) -> None:
        """Write contiguous bytes at ``offset`` within tensor ``name`` (or ``NAME.qb``)."""
        view = np.ascontiguousarray(piece).view(np.uint8).data.cast("B")
        self._put(self._starts[name] + offset, view)
        self._written += len(view)

    def _put(self, at: int, view: memoryview) -> None:
        while view:
            number, start = divmod(at, _WINDOW)
            length = min(_WINDOW, self.nbytes - number * _WINDOW)
            if number in self._done:
                raise ValueError("a part of a safetensors file was written twice")
            window = self._windows.get(number)
            if window is None:
                window = self._windows[number] = _Window(length)
            part = view[: length - start]
            if window.fill(start, part):
                del self._windows[number]
                self._done.add(number)
                self._file.seek(number * _WINDOW)
                self._write_all(window.content)
            view, at = view[len(part) :], at + len(part)

    def _write_all(self, content: bytearray) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header, force everything to the disk and close the file.

        Raises:
            ValueError: not every byte was written once, or the metadata changed its length.
        """
        header = _header(self._specs, metadata)
        if len(header) != self._header_bytes or self._written != self.nbytes - self._header_bytes:
            raise ValueError("a safetensors file was finished before it was complete")
        self._put(0, memoryview(header))
        if self._windows:
            raise ValueError("a safetensors file was finished before it was complete")
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        """Close the file, complete or not."""
        self._file.close()

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def file_size(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> int:
    """Size in bytes of the file that these tensors make."""
    return len(_header(specs, metadata)) + sum(s.data_bytes + s.scale_bytes for s in specs)


def _header(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Length and padded JSON."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0

    def add(name: str, dtype: DType, shape: tuple[int, ...], length: int) -> None:
        nonlocal end
        if name in table:
            raise DuplicateNameError(f"cannot write two tensors named {name!r}")
        table[name] = {"dtype": dtype.value, "shape": list(shape), "data_offsets": [end, end + length]}
        end += length

    for spec in specs:
        add(spec.name, spec.dtype, spec.shape, spec.data_bytes)
        if spec.dtype.is_quantized:
            add(spec.name + SCALES_SUFFIX, DType.F32, scales_shape(spec.shape), spec.scale_bytes)
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    if len(text) >= MAX_WRITTEN_HEADER:
        raise HeaderTooLargeError(
            f"{len(specs)} tensors need a header of {len(text)} bytes, Jlama reads one MiB"
        )
    return struct.pack("<Q", len(text)) + text
