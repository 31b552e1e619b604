"""The reader of GGUF files against the gguf package's, and against files that nobody vouches for."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from cg.quant.export.gguf_file import GgufFile
from cg.runtime import errors
from cg.runtime.errors import CgError, FormatError

U32, U64, STRING, ARRAY = "<I", "<Q", 8, 9


def text(value: bytes) -> bytes:
    return struct.pack(U64, len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack(U32, kind) + value


def tensor(name: bytes, dims: list[int], kind: int, offset: int) -> bytes:
    shape = b"".join(struct.pack(U64, d) for d in dims)
    return text(name) + struct.pack(U32, len(dims)) + shape + struct.pack("<IQ", kind, offset)


def file(
    *,
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    header = magic + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join(keys + tensors)
    return header + bytes(-len(header) % 32) + data


def test_reads_what_the_package_reads(demo_gguf: Path) -> None:
    path = demo_gguf
    package = gguf.GGUFReader(path)
    with GgufFile(path) as ours:
        assert list(ours.tensors) == [t.name for t in package.tensors]
        for theirs in package.tensors:
            mine = ours.tensors[theirs.name]
            assert mine.type == theirs.tensor_type.name
            assert mine.shape == tuple(theirs.shape)[::-1]
            np.testing.assert_array_equal(mine.data, theirs.data.reshape(-1).view(np.uint8))
        wanted = {n: f.contents() for n, f in package.fields.items() if not n.startswith("GGUF.")}
        assert ours.metadata == wanted


def test_every_type_of_value(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "gemma")
    numbers = {
        "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 1 << 31, "int32": -5,
        "uint64": 1 << 63, "int64": -(1 << 60), "float32": 0.5, "float64": 0.1,
    }  # fmt: skip
    for kind, value in numbers.items():
        getattr(writer, f"add_{kind}")(kind, value)
    writer.add_bool("bool", True)
    writer.add_array("texts", ["a", "é", ""])
    writer.add_array("floats", [0.5, -2.0])
    writer.add_custom_alignment(256)
    writer.add_tensor("t", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufFile(path) as found:
        assert {k: found.metadata[k] for k in numbers} == numbers
        assert found.metadata["bool"] is True
        assert found.metadata["texts"] == ["a", "é", ""]
        assert found.metadata["floats"] == [0.5, -2.0]
        assert found.tensors["t"].begin % 256 == 0
        assert found.tensors["t"].data.view("<f4").tolist() == [0, 1, 2, 3, 4, 5]


F32, Q4_0 = 0, 2
GOOD = tensor(b"t", [32], F32, 0)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "TruncatedFileError"),
        (b"GGUF", "TruncatedFileError"),
        (file(magic=b"GGML"), "InvalidHeaderError"),
        (file(version=1), "InvalidHeaderError"),
        (file(version=3 << 24), "InvalidHeaderError"),
        (file(counts=(0, 1 << 60)), "TruncatedFileError"),
        (file(counts=(1 << 60, 0)), "TruncatedFileError"),
        (file(keys=(struct.pack(U64, 1 << 62) + b"x",)), "TruncatedFileError"),
        (file(keys=(key(b"\xff", 4, bytes(4)),)), "InvalidHeaderError"),
        (file(keys=(key(b"k", 99, bytes(64)),)), "InvalidHeaderError"),
        (file(keys=(key(b"k", ARRAY, struct.pack("<IQ", 99, 1) + bytes(64)),)), "InvalidHeaderError"),
        (file(keys=(key(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(64)),)), "InvalidHeaderError"),
        (file(keys=(key(b"k", ARRAY, struct.pack("<IQ", STRING, 1 << 61)),)), "TruncatedFileError"),
        (file(keys=(key(b"k", ARRAY, struct.pack("<IQ", 4, 1 << 61)),)), "TruncatedFileError"),
        (file(keys=(key(b"k", 4, bytes(4)),) * 2), "DuplicateNameError"),
        (file(keys=(key(b"general.alignment", 4, struct.pack(U32, 0)),)), "InvalidHeaderError"),
        (file(keys=(key(b"general.alignment", 4, struct.pack(U32, 48)),)), "InvalidHeaderError"),
        (file(keys=(key(b"general.alignment", STRING, text(b"32")),)), "InvalidHeaderError"),
        (file(tensors=(tensor(b"\x1b[2J", [32], F32, 0),), data=bytes(128)), "InvalidHeaderError"),
        (file(tensors=(tensor(b"t", [1] * 5, F32, 0),), data=bytes(128)), "InvalidHeaderError"),
        (file(tensors=(tensor(b"t", [32], 77, 0),), data=bytes(128)), "UnknownDtypeError"),
        (file(tensors=(tensor(b"t", [33], Q4_0, 0),), data=bytes(128)), "BlockShapeError"),
        (file(tensors=(tensor(b"t", [1 << 32] * 4, F32, 0),), data=bytes(128)), "LengthMismatchError"),
        (file(tensors=(GOOD,), data=bytes(127)), "TruncatedFileError"),
        (file(tensors=(tensor(b"t", [32], F32, 1 << 63),), data=bytes(128)), "TruncatedFileError"),
        (file(tensors=(tensor(b"t", [32], F32, 16),), data=bytes(256)), "BadOffsetsError"),
        (file(tensors=(GOOD, tensor(b"u", [32], F32, 96)), data=bytes(256)), "OverlapError"),
        (file(tensors=(GOOD, tensor(b"t", [32], F32, 128)), data=bytes(256)), "DuplicateNameError"),
    ],
)  # fmt: skip
def test_each_cause_has_its_own_error(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CgError) as raised:
        GgufFile(tmp_path / "x.gguf")
    assert type(raised.value) is getattr(errors, error), raised.value
    assert raised.value.exit_code == 3
    assert "x.gguf" in raised.value.message


def test_a_good_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(file(tensors=(GOOD, tensor(b"u", [2, 3], F32, 128)), data=bytes(256)))
    with GgufFile(tmp_path / "x.gguf") as found:
        assert [(t.name, t.shape) for t in found.tensors.values()] == [("t", (32,)), ("u", (3, 2))]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointError, match="missing"):
        GgufFile(tmp_path / "x.gguf")
    with pytest.raises(errors.CheckpointError, match="missing"):
        GgufFile(tmp_path)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(0, len(content))]


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(0, len(content), 3):
        changed[place] ^= 1 << rng.integers(0, 8)
    return bytes(changed)


@pytest.mark.parametrize("damage", [_cut, _flip])
def test_damaged_files_are_refused_or_read(
    tmp_path: Path, damage: Callable[[bytes, np.random.Generator], bytes]
) -> None:
    keys = (
        key(b"general.architecture", STRING, text(b"gemma")),
        key(b"a", ARRAY, struct.pack("<IQ", STRING, 2) + text(b"x") + text(b"yy")),
        key(b"b", ARRAY, struct.pack("<IQ", 6, 3) + bytes(12)),
        key(b"c", 7, b"\1"),
    )
    tensors = (GOOD, tensor(b"u", [64, 2], Q4_0, 128))
    content = file(keys=keys, tensors=tensors, data=bytes(128 + 2 * 36))
    rng = np.random.default_rng(11)
    path = tmp_path / "x.gguf"
    refused = 0
    for _ in range(150):
        path.write_bytes(damage(content, rng))
        try:
            GgufFile(path).close()
        except FormatError:
            refused += 1
    assert refused > 40
