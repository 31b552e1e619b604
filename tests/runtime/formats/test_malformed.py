"""Every way in which a safetensors file can be malformed has its own error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cg.runtime.errors import (
    BadOffsetsError,
    BlockShapeError,
    CgError,
    CheckpointError,
    DuplicateNameError,
    HeaderTooLargeError,
    HoleError,
    InvalidHeaderError,
    LengthMismatchError,
    MissingScalesError,
    OrphanScalesError,
    OverlapError,
    ScalesShapeError,
    TruncatedFileError,
    UnknownDtypeError,
)
from cg.runtime.formats.safetensors import SafetensorsFile


def open_all(path: Path) -> None:
    with SafetensorsFile(path) as f:
        assert f.tensors is not None


def refused(path: Path, error: type[CgError], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        open_all(path)
    assert type(caught.value) is error
    assert str(path) in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\0", b"\x10" + b"\0" * 6])
def test_too_short_for_a_length(file: Any, content: bytes) -> None:
    refused(file(content), TruncatedFileError, "empty|too short")


def test_header_longer_than_the_file(file: Any, pack: Any) -> None:
    refused(file(pack("{}", length=1000)), TruncatedFileError, "1000 bytes, the file has 2")


@pytest.mark.parametrize("length", [100_000_001, (1 << 63) - 1, (1 << 64) - 1])
def test_header_larger_than_the_format_allows(file: Any, pack: Any, length: int) -> None:
    refused(file(pack("{}", length=length)), HeaderTooLargeError, str(length))


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("", "begin with"),
        (" {}", "begin with"),
        ("[]", "begin with"),
        ("null", "begin with"),
        ("{", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        ('{"a":1,}', "not valid JSON"),
        (b'{"\xff":{}}', "not valid JSON"),
        ('{"a":NaN}', "NaN is not JSON"),
        ('{"a":-Infinity}', "-Infinity is not JSON"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"a":' + "9" * 5000 + "}", "not valid JSON"),
        ('{"a":1}', "not a JSON object"),
        ('{"a":[]}', "not a JSON object"),
        ('{"a":null}', "not a JSON object"),
        ('{"a":{}}', "dtype is not a string"),
        ('{"a":{"dtype":4,"shape":[],"data_offsets":[0,0]}}', "dtype is not a string"),
        ('{"a":{"dtype":"F32","shape":4,"data_offsets":[0,0]}}', "shape is not a list"),
        ('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', "shape is not a list"),
        ('{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', "shape is not a list"),
        ('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "shape is not a list"),
        ('{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}', "shape is not a list"),
        ('{"a":{"dtype":"F32","data_offsets":[0,4]}}', "shape is not a list"),
        ('{"a":{"dtype":"F32","shape":%s,"data_offsets":[0,4]}}' % ([1] * 33), "33 dimensions"),
        ('{"__metadata__":[]}', "__metadata__ is not"),
        ('{"__metadata__":null}', "__metadata__ is not"),
        ('{"__metadata__":{"a":1}}', "strings only"),
        ('{"__metadata__":{"a":{"b":"c"}}}', "strings only"),
        (r'{"__metadata__":{"a":"\ud800"}}', "surrogate"),
        (r'{"\ud800":{}}', "surrogate"),
        (r'{"a\u001b[2Jb":{}}', "control characters"),
        (r'{"a\nb":{}}', "control characters"),
    ],
)
def test_header_that_is_not_what_the_format_asks_for(
    file: Any, pack: Any, header: str | bytes, match: str
) -> None:
    refused(file(pack(header)), InvalidHeaderError, match)


@pytest.mark.parametrize(
    "offsets", ["[0]", "[0,4,8]", "[-4,0]", "[4,0]", "[0.0,4.0]", "[false,true]", '"04"', "null", "[0,[4]]"]
)
def test_offsets_that_are_no_offsets(file: Any, pack: Any, offsets: str) -> None:
    header = '{"a":{"dtype":"F32","shape":[1],"data_offsets":' + offsets + "}}"
    refused(file(pack(header, b"\0" * 4)), BadOffsetsError, "data_offsets")


def test_offsets_that_no_file_reaches(file: Any, pack: Any, entry: Any) -> None:
    header = {"a": entry("U8", [1], 1 << 63, (1 << 63) + 1)}
    refused(file(pack(header)), BadOffsetsError, "past the end")


def test_missing_offsets(file: Any, pack: Any) -> None:
    refused(file(pack('{"a":{"dtype":"F32","shape":[1]}}')), BadOffsetsError, "two integers")


def test_overlap(file: Any, pack: Any, entry: Any) -> None:
    header = {"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}
    refused(file(pack(header, b"\0" * 6)), OverlapError, "'a' and 'b' overlap")


def test_two_tensors_at_the_same_place(file: Any, pack: Any, entry: Any) -> None:
    header = {"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 0, 4)}
    refused(file(pack(header, b"\0" * 4)), OverlapError, "overlap")


@pytest.mark.parametrize(("begin", "size"), [(2, 6), (0, 6)])
def test_bytes_that_belong_to_nothing(file: Any, pack: Any, entry: Any, begin: int, size: int) -> None:
    header = {"a": entry("U8", [4], begin, begin + 4)}
    refused(file(pack(header, b"\0" * size)), HoleError, "2 bytes")


def test_hole_in_the_middle(file: Any, pack: Any, entry: Any) -> None:
    header = {"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 4, 5)}
    refused(file(pack(header, b"\0" * 5)), HoleError, "3 bytes before 'b'")


def test_data_that_ends_too_early(file: Any, pack: Any, entry: Any) -> None:
    refused(file(pack({"a": entry("U8", [4], 0, 4)}, b"\0" * 3)), TruncatedFileError, "the file has 3")


@pytest.mark.parametrize(
    ("dtype", "shape", "length"),
    [
        ("F32", [2], 4),
        ("F32", [], 8),
        ("BF16", [3], 4),
        ("U8", [0], 1),
        ("Q4", [1, 32], 32),
        ("U8", [2, 0], 2),
    ],
)
def test_length_and_shape_disagree(
    file: Any, pack: Any, entry: Any, dtype: str, shape: list[int], length: int
) -> None:
    refused(file(pack({"a": entry(dtype, shape, 0, length)}, b"\0" * length)), LengthMismatchError, "takes")


@pytest.mark.parametrize(
    "shape",
    [[1 << 32, 1 << 32], [1 << 63], [1 << 64, 0], [1 << 40, 0, 1 << 40], [2] * 32 + [], [int("9" * 4000)]],
)
def test_shapes_whose_product_overflows(file: Any, pack: Any, entry: Any, shape: list[int]) -> None:
    dtype = "F64"
    header = {"a": entry(dtype, shape, 0, 0)}
    with pytest.raises(LengthMismatchError):
        open_all(file(pack(header)))


@pytest.mark.parametrize(
    "header",
    [
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{}}',
        '{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
        '{"__metadata__":{"k":"1","k":"2"}}',
    ],
)
def test_names_that_occur_twice(file: Any, pack: Any, header: str) -> None:
    refused(file(pack(header, b"\0\0")), DuplicateNameError, "twice")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "Q5", "f32", "", "U64"])
def test_unknown_dtypes(file: Any, pack: Any, entry: Any, dtype: str) -> None:
    refused(file(pack({"a": entry(dtype, [1], 0, 1)}, b"\0")), UnknownDtypeError, "unknown dtype")


@pytest.mark.parametrize(
    ("dtype", "shape", "length"),
    [("Q4", [2, 31], 31), ("Q4", [64], 32), ("Q4", [2, 1, 32], 32), ("I8", [2, 33], 66), ("I8", [], 1)],
)
def test_quantized_tensors_need_whole_blocks(
    file: Any, pack: Any, entry: Any, dtype: str, shape: list[int], length: int
) -> None:
    header = {"a": entry(dtype, shape, 0, length)}
    refused(file(pack(header, b"\0" * length)), BlockShapeError, "a multiple of 32")


@pytest.mark.parametrize(("dtype", "length"), [("Q4", 32), ("I8", 64)])
def test_quantized_tensor_without_scales(file: Any, pack: Any, entry: Any, dtype: str, length: int) -> None:
    path = file(pack({"a": entry(dtype, [2, 32], 0, length)}, b"\0" * length))
    refused(path, MissingScalesError, r"'a\.qb'")


def test_plain_int8_is_explained(file: Any, pack: Any, entry: Any) -> None:
    with pytest.raises(MissingScalesError) as caught:
        open_all(file(pack({"a": entry("I8", [1, 32], 0, 32)}, b"\0" * 32)))
    assert caught.value.hint == "cg reads I8 as Jlama's blocks only"


@pytest.mark.parametrize(
    ("dtype", "shape", "length"),
    [("F32", [2], 8), ("F32", [1, 2], 8), ("F32", [2, 2], 16), ("F16", [2, 1], 4), ("F32", [2, 1, 1], 8)],
)
def test_scales_of_another_shape_or_dtype(
    file: Any, pack: Any, entry: Any, dtype: str, shape: list[int], length: int
) -> None:
    header = {"a": entry("Q4", [2, 32], 0, 32), "a.qb": entry(dtype, shape, 32, 32 + length)}
    refused(file(pack(header, b"\0" * (32 + length))), ScalesShapeError, r"expected F32 \[2, 1\]")


@pytest.mark.parametrize("owner", [None, "F32"])
def test_scales_of_nothing(file: Any, pack: Any, entry: Any, owner: str | None) -> None:
    header = {"a.qb": entry("F32", [1, 1], 0, 4)}
    if owner is not None:
        header["a"] = entry(owner, [1], 4, 8)
    refused(file(pack(header, b"\0" * (4 if owner is None else 8))), OrphanScalesError, r"'a\.qb'")


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "absent.safetensors", CheckpointError, "missing")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    refused(tmp_path, CheckpointError, "not a file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipe_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    refused(path, CheckpointError, "not a file")


def test_messages_stay_short(file: Any, pack: Any, entry: Any) -> None:
    name = "n" * 100_000
    with pytest.raises(UnknownDtypeError) as caught:
        open_all(file(pack({name: entry("X" * 100_000, [1], 0, 1)}, b"\0")))
    assert len(caught.value.message) < 1000


def test_a_valid_file_is_read(file: Any, pack: Any, entry: Any) -> None:
    """The counterpart: the same kind of file, without a mistake."""
    header = {"a": entry("Q4", [2, 32], 0, 32), "a.qb": entry("F32", [2, 1], 32, 40)}
    header["b"] = {**entry("U8", [0, 5], 40, 40), "extra": {"ignored": [1]}}
    with SafetensorsFile(file(pack(json.dumps(header) + "   ", bytes(40)))) as f:
        assert list(f.tensors) == ["a", "b"]
