"""A GGUF file, mapped, its header checked completely before anything trusts it.

Layout, little-endian: ``GGUF``, version, number of tensors, number of keys, the keys with their values, the
tensors' names, shapes, types and offsets, then, aligned, the data. Source:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package gguf has a reader too, which believes
every length that a file states; here it only tells the types' names and sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from cg.quant.export.packages import gguf_package
from cg.runtime.errors import (
    BadOffsetsError,
    BlockShapeError,
    DuplicateNameError,
    InvalidHeaderError,
    LengthMismatchError,
    OverlapError,
    TruncatedFileError,
    UnknownDtypeError,
)
from cg.runtime.formats.mapping import map_file, release_pages
from cg.runtime.tensor import Bytes

__all__ = ["MAGIC", "GgufFile", "GgufTensor"]

MAGIC = b"GGUF"

_VERSIONS = (2, 3)
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8",
    12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_ALIGNMENT_KEY, _DEFAULT_ALIGNMENT = "general.alignment", 32
_MAX_LENGTH = (1 << 63) - 1  # of a file, on every system


@dataclass(frozen=True, slots=True, eq=False)
class GgufTensor:
    """A tensor as it lies in the file."""

    name: str
    type: str
    """GGUF's name for it, ``Q4_0`` and so on."""
    shape: tuple[int, ...]
    """Rows first; GGUF itself writes the innermost dimension first."""
    data: Bytes
    begin: int
    """First byte in the file."""


class GgufFile:
    """An open file: ``metadata`` by key, ``tensors`` by name in the order of their data.

    Raises:
        UsageError: the package gguf is not installed.
        FormatError: the file is malformed, one subclass per cause.
        CheckpointError: the file is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._gguf = gguf_package()
        self._map = map_file(path)
        self._whole: Bytes = np.frombuffer(self._map, dtype=np.uint8)
        try:
            header = _Cursor(self._whole, str(path))
            self.metadata: Mapping[str, Any] = {}
            self.tensors: Mapping[str, GgufTensor] = {}
            self._read(header)
        except BaseException:
            self.close()
            raise

    def _read(self, header: _Cursor) -> None:
        where = header.where
        if header.take(4) != MAGIC:
            raise InvalidHeaderError(f"{where}: not a GGUF file")
        version = header.number("<u4")
        if version not in _VERSIONS:
            raise InvalidHeaderError(
                f"{where}: GGUF version {version}, cg reads {' and '.join(map(str, _VERSIONS))}",
                hint="the file is of a machine with the other byte order" if version >= 1 << 16 else None,
            )
        tensor_count, key_count = header.number("<u8"), header.number("<u8")
        header.expect(12 * key_count + 24 * tensor_count)  # what they take at least
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = header.string()
            if key in metadata:
                raise DuplicateNameError(f"{where}: the key {key[:200]!r} occurs twice")
            metadata[key] = header.value()
        self.metadata = metadata
        infos = [self._tensor_info(header) for _ in range(tensor_count)]
        alignment = metadata.get(_ALIGNMENT_KEY, _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise InvalidHeaderError(f"{where}: {_ALIGNMENT_KEY} is {alignment!r}, expected a power of two")
        start = -(-header.position // alignment) * alignment
        self.tensors = self._place(infos, start, alignment, where)

    def _tensor_info(self, header: _Cursor) -> tuple[str, str, tuple[int, ...], int, int]:
        """Name, type, shape, bytes and offset of the next tensor."""
        name = header.string()
        at = f"{header.where}: tensor {name[:200]!r}"
        if not name.isprintable():  # names end up on terminals
            raise InvalidHeaderError(f"{at}: control characters in the name")
        dimensions = header.number("<u4")
        if dimensions > _MAX_DIMENSIONS:
            raise InvalidHeaderError(f"{at}: {dimensions} dimensions, more than {_MAX_DIMENSIONS}")
        shape = tuple(header.number("<u8") for _ in range(dimensions))[::-1]
        number, offset = header.number("<u4"), header.number("<u8")
        try:
            kind = self._gguf.GGMLQuantizationType(number)
            block, block_bytes = self._gguf.GGML_QUANT_SIZES[kind]
        except (KeyError, ValueError):
            raise UnknownDtypeError(
                f"{at}: unknown type {number}", hint="a newer version of the package gguf may know it"
            ) from None
        if (shape[-1] if shape else 1) % block:
            raise BlockShapeError(f"{at}: {kind.name} with rows of {shape[-1]}, no multiple of {block}")
        size = 1
        for dimension in shape:
            size *= dimension
            if size > _MAX_LENGTH:
                raise LengthMismatchError(f"{at}: larger than any file")
        return name, str(kind.name), shape, size // block * block_bytes, offset

    def _place(
        self,
        infos: list[tuple[str, str, tuple[int, ...], int, int]],
        start: int,
        alignment: int,
        where: str,
    ) -> dict[str, GgufTensor]:
        found: dict[str, GgufTensor] = {}
        end, previous = start, ""
        for name, kind, shape, nbytes, offset in sorted(infos, key=lambda info: info[4]):
            at = f"{where}: tensor {name[:200]!r}"
            if name in found:
                raise DuplicateNameError(f"{at} occurs twice")
            if offset % alignment:
                raise BadOffsetsError(f"{at}: offset {offset} is no multiple of {alignment}")
            begin = start + offset
            if begin < end:
                raise OverlapError(f"{where}: tensors {previous[:200]!r} and {name[:200]!r} overlap")
            end, previous = begin + nbytes, name
            if end > self._whole.nbytes:
                raise TruncatedFileError(
                    f"{at}: its data should end at byte {end}, the file has {self._whole.nbytes}",
                    hint="the file is incomplete: download or copy it again",
                )
            found[name] = GgufTensor(name, kind, shape, self._whole[begin:end], begin)
        return found

    def release(self, tensor: GgufTensor) -> None:
        """Give the pages of a tensor that is done with back to the system."""
        release_pages(self._map, tensor.begin, tensor.begin + tensor.data.nbytes)

    def close(self) -> None:
        """Forget the mapping; data that are still in use stay valid."""
        self.tensors = {}
        self.__dict__.pop("_whole", None)
        try:
            self._map.close()
        except BufferError:  # views are alive; the last one frees the mapping
            return

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Cursor:
    """Reads the header from front to back, and never past the end."""

    def __init__(self, whole: Bytes, where: str) -> None:
        self.where = where
        self.position = 0
        self._bytes = whole.data

    def expect(self, length: int) -> None:
        """Raise unless that many bytes follow."""
        if length > len(self._bytes) - self.position:
            raise TruncatedFileError(
                f"{self.where}: the header needs {length} bytes at {self.position}, "
                f"the file has {len(self._bytes)}",
                hint="the file is incomplete or damaged: download or copy it again",
            )

    def take(self, length: int) -> bytes:
        self.expect(length)
        self.position += length
        return bytes(self._bytes[self.position - length : self.position])

    def number(self, dtype: str) -> Any:
        width = int(dtype[2:])
        return np.frombuffer(self.take(width), dtype)[0].item()

    def string(self) -> str:
        (length,) = struct.unpack("<Q", self.take(8))
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidHeaderError(f"{self.where}: a string of the header is not UTF-8") from None

    def value(self) -> Any:
        """A number, a string, or a list of them."""
        kind = self.number("<u4")
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            self._refuse_type(kind)
        item, count = self.number("<u4"), self.number("<u8")
        if item == _STRING:
            self.expect(8 * count)
            return [self.string() for _ in range(count)]
        if item not in _SCALARS:
            self._refuse_type(item)
        dtype = np.dtype(_SCALARS[item])
        return np.frombuffer(self.take(dtype.itemsize * count), dtype).tolist()

    def _refuse_type(self, kind: int) -> NoReturn:
        raise InvalidHeaderError(f"{self.where}: a value of the unknown type {kind}")
