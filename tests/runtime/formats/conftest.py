"""Files made by hand, byte by byte, so that the reader is not tested with our own writer alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Pack = Callable[..., bytes]
WriteFile = Callable[[bytes], Path]


@pytest.fixture(scope="session")
def pack() -> Pack:
    """``pack(header, data, length=None)``: a file; the header is JSON text, bytes or an object."""

    def build(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else None
        if text is None:
            text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    return build


@pytest.fixture
def file(tmp_path: Path) -> WriteFile:
    """``file(content)``: a path with these bytes."""

    def write(content: bytes) -> Path:
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="session")
def entry() -> Callable[..., dict[str, Any]]:
    """``entry(dtype, shape, begin, end)``: one tensor of a header."""

    def build(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    return build
