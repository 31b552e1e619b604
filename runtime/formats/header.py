"""The JSON header of a safetensors file, checked completely before anything trusts it.

Layout: 8 bytes little-endian header length, the header, then the data that its offsets count from.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import (
    BadOffsetsError,
    BlockShapeError,
    HeaderTooLargeError,
    HoleError,
    InvalidHeaderError,
    LengthMismatchError,
    OverlapError,
    TruncatedFileError,
    UnknownDtypeError,
)
from cg.runtime.formats.strict_json import is_index, parse_object

__all__ = ["MAX_HEADER_BYTES", "Entry", "Header", "byte_length", "read_header"]

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""

_PREFIX = 8
_MAX_DIMENSIONS = 32  # numpy's, before 2.0
_MAX_LENGTH = (1 << 63) - 1  # of a file, on every system


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a header; ``begin`` and ``end`` count from the start of the file."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: entries in the order of their data, without overlap or hole."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    data_start: int


def read_header(buffer: memoryview, where: str) -> Header:
    """Read and check the header of a whole mapped file; ``where`` names it in messages.

    Raises:
        FormatError: one subclass per cause.
    """
    if len(buffer) < _PREFIX:
        raise TruncatedFileError(f"{where}: {len(buffer)} bytes, too short for a safetensors file")
    (length,) = struct.unpack("<Q", buffer[:_PREFIX])
    if length > MAX_HEADER_BYTES:
        raise HeaderTooLargeError(
            f"{where}: the header announces {length} bytes, the format allows {MAX_HEADER_BYTES}",
            hint="this is probably not a safetensors file",
        )
    data_start = _PREFIX + length
    if data_start > len(buffer):
        raise TruncatedFileError(
            f"{where}: the header announces {length} bytes, the file has {len(buffer) - _PREFIX}",
            hint="the file is incomplete: download or copy it again",
        )
    text = bytes(buffer[_PREFIX:data_start])
    if not text.startswith(b"{"):
        raise InvalidHeaderError(f"{where}: the header does not begin with '{{'")
    raw = parse_object(text, f"{where}: header", InvalidHeaderError)
    metadata = _metadata(raw.pop("__metadata__", {}), where)
    entries = sorted(
        (_entry(name, value, data_start, where) for name, value in raw.items()),
        key=lambda e: (e.begin, e.end),
    )
    _check_layout(entries, data_start, len(buffer), where)
    return Header(tuple(entries), metadata, data_start)


def byte_length(dtype: DType, shape: tuple[int, ...], where: str) -> int:
    """Bytes that a tensor takes, scales not counted.

    Raises:
        BlockShapeError: a quantized tensor that is not 2-D with whole blocks.
        LengthMismatchError: more bytes than any file can have.
    """
    if dtype.is_quantized and (len(shape) != 2 or shape[1] % BLOCK_SIZE):
        raise BlockShapeError(
            f"{where}: {dtype.value} of shape {_dims(shape)}, expected [rows, a multiple of {BLOCK_SIZE}]"
        )
    nonzero = 1  # the product without zeros, so that numpy never sees a dimension that overflows
    for dimension in shape:
        nonzero *= max(dimension, 1)
        if nonzero * dtype.bits > 8 * _MAX_LENGTH:
            raise LengthMismatchError(f"{where}: shape {_dims(shape)} is larger than any file")
    return 0 if 0 in shape else nonzero * dtype.bits // 8


def _metadata(raw: Any, where: str) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise InvalidHeaderError(f"{where}: __metadata__ is not a JSON object")
    for key, value in raw.items():
        if not isinstance(value, str):
            raise InvalidHeaderError(f"{where}: __metadata__ may hold strings only, {key[:200]!r} does not")
        _check_text(key, where)
        _check_text(value, where)
    return raw


def _entry(name: str, raw: Any, data_start: int, where: str) -> Entry:
    _check_text(name, where)
    if not name.isprintable():  # names end up on terminals
        raise InvalidHeaderError(f"{where}: control characters in the tensor name {name[:200]!r}")
    at = f"{where}: tensor {name[:200]!r}"
    if not isinstance(raw, dict):
        raise InvalidHeaderError(f"{at}: not a JSON object")
    dtype = _dtype(raw, at)
    shape = raw.get("shape")
    if not isinstance(shape, list) or not all(is_index(d) for d in shape):
        raise InvalidHeaderError(f"{at}: shape is not a list of integers from 0")
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidHeaderError(f"{at}: {len(shape)} dimensions, more than {_MAX_DIMENSIONS}")
    begin, end = _offsets(raw, at)
    expected = byte_length(dtype, tuple(shape), at)
    if end - begin != expected:
        raise LengthMismatchError(
            f"{at}: {dtype.value} {shape} takes {expected} bytes, data_offsets give {end - begin}"
        )
    return Entry(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _dtype(raw: Mapping[str, Any], at: str) -> DType:
    name = raw.get("dtype")
    if not isinstance(name, str):
        raise InvalidHeaderError(f"{at}: dtype is not a string")
    try:
        return DType(name)
    except ValueError:
        raise UnknownDtypeError(
            f"{at}: unknown dtype {name[:40]!r}", hint=f"cg reads {', '.join(d.value for d in DType)}"
        ) from None


def _offsets(raw: Mapping[str, Any], at: str) -> tuple[int, int]:
    offsets = raw.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_index(o) for o in offsets):
        raise BadOffsetsError(f"{at}: data_offsets are not two integers from 0")
    begin, end = offsets
    if begin > end:
        raise BadOffsetsError(f"{at}: data_offsets are reversed")
    if end > _MAX_LENGTH:
        raise BadOffsetsError(f"{at}: data_offsets are past the end of any file")
    return begin, end


def _check_layout(entries: list[Entry], data_start: int, file_size: int, where: str) -> None:
    """Entries, sorted by offset, must fill the data section exactly."""
    end, previous = data_start, ""
    for e in entries:
        if e.begin < end:
            raise OverlapError(f"{where}: tensors {previous[:200]!r} and {e.name[:200]!r} overlap")
        if e.begin > end:
            raise HoleError(f"{where}: {e.begin - end} bytes before {e.name[:200]!r} belong to no tensor")
        end, previous = e.end, e.name
    if end > file_size:
        raise TruncatedFileError(
            f"{where}: the data should take {end - data_start} bytes, the file has {file_size - data_start}",
            hint="the file is incomplete: download or copy it again",
        )
    if end < file_size:
        raise HoleError(f"{where}: {file_size - end} bytes at the end belong to no tensor")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidHeaderError(f"{where}: half a surrogate pair in a string of the header") from None


def _dims(shape: tuple[int, ...]) -> str:
    return str(list(shape)) if all(d <= _MAX_LENGTH for d in shape) else "[... enormous ...]"
