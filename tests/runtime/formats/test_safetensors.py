"""Reading: what is in the file arrives as it lies there, without a copy."""

from __future__ import annotations

import gc
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cg.runtime.dtypes import DType
from cg.runtime.formats.safetensors import SafetensorsFile


@pytest.mark.parametrize("name", ["edge", "gemma-mqa", "gemma-mha-wide"])
def test_values_are_those_of_the_safetensors_library(golden: Path, name: str) -> None:
    path = golden / name / "model.safetensors"
    with SafetensorsFile(path) as ours, safe_open(path, framework="pt") as theirs:
        assert set(ours.tensors) == set(theirs.keys())
        assert ours.metadata == theirs.metadata()
        for key, tensor in ours.tensors.items():
            expected = theirs.get_tensor(key)
            assert tensor.shape == tuple(expected.shape)
            np.testing.assert_array_equal(tensor.dequantize().ravel(), expected.float().numpy().ravel())


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32, np.int16, np.uint8, np.bool_])
def test_other_dtypes(tmp_path: Path, dtype: type[np.generic]) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    save_file({"a": values, "scalar": np.asarray(values[0, 0]), "empty": values[:0]}, tmp_path / "x")
    with SafetensorsFile(tmp_path / "x") as f:
        np.testing.assert_array_equal(f.tensors["a"].storage(), values)
        assert f.tensors["scalar"].storage() == values[0, 0]
        assert f.tensors["empty"].storage().shape == (0, 3)
        assert f.tensors["a"].storage().dtype == values.dtype


def test_unaligned_data_is_viewed_and_not_copied(golden: Path) -> None:
    with SafetensorsFile(golden / "gemma-mqa-JQ4" / "model.safetensors") as f:
        assert f.header.data_start % 4 == 3
        tensor = f.tensors["model.layers.0.mlp.up_proj.weight"]
        assert tensor.dtype is DType.Q4
        assert tensor.scales is not None
        for view in (tensor.data, tensor.scales, tensor.storage()):
            assert np.shares_memory(view, f.raw)
            assert not view.flags.writeable
        assert not tensor.scales.flags.aligned


def test_scales_are_folded_into_their_tensor(golden: Path) -> None:
    with SafetensorsFile(golden / "gemma-mqa-JQ4-embed" / "model.safetensors") as f:
        assert not any(name.endswith(".qb") for name in f.tensors)
        embedding = f.tensors["model.embed_tokens.weight"]
        assert embedding.shape == (640, 256)
        assert embedding.scales is not None
        assert embedding.scales.shape == (640, 8)
        assert embedding.nbytes == 640 * 256 * 5 // 8
        assert sum(t.nbytes for t in f.tensors.values()) == f.nbytes - f.header.data_start


def test_vectors_keep_the_shape_that_the_writer_gave_them(golden: Path) -> None:
    with SafetensorsFile(golden / "gemma-mqa" / "model.safetensors") as theirs:
        assert theirs.tensors["model.norm.weight"].shape == (256,)
    with SafetensorsFile(golden / "gemma-mqa-JQ4" / "model.safetensors") as jlamas:
        assert jlamas.tensors["model.norm.weight"].shape == (1, 256)
        assert jlamas.tensors["model.norm.weight"].rows == 1


def test_file_without_tensors(file: Any, pack: Any) -> None:
    with SafetensorsFile(file(pack("{}"))) as f:
        assert dict(f.tensors) == {}
        assert f.metadata == {}


def test_header_may_be_followed_by_spaces_and_keep_unknown_keys(file: Any, pack: Any, entry: Any) -> None:
    header = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":null}}' + " " * 30
    with SafetensorsFile(file(pack(header, b"\x07"))) as f:
        assert f.tensors["a"].storage().tolist() == [7]


def test_tensors_are_in_the_order_of_their_data(file: Any, pack: Any, entry: Any) -> None:
    header = {"z": entry("U8", [1], 0, 1), "a": entry("U8", [1], 2, 3), "m": entry("U8", [1], 1, 2)}
    with SafetensorsFile(file(pack(header, b"zma"))) as f:
        assert [bytes(t.data) for t in f.tensors.values()] == [b"z", b"m", b"a"]


def test_close_without_tensors_in_use_unmaps(golden: Path) -> None:
    f = SafetensorsFile(golden / "edge" / "model.safetensors")
    mapped = f._map
    assert f.tensors
    f.close()
    f.close()
    assert mapped.closed


def test_tensors_outlive_the_file(golden: Path) -> None:
    with SafetensorsFile(golden / "edge" / "model.safetensors") as f:
        tensor = f.tensors["a.gauss_f32.weight"]
        expected = tensor.dequantize()
    del f
    gc.collect()
    np.testing.assert_array_equal(tensor.dequantize(), expected)


def test_a_refused_file_is_unmapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[mmap.mmap] = []
    original = mmap.mmap

    def spy(*args: Any, **kwargs: Any) -> mmap.mmap:
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(mmap, "mmap", spy)
    (tmp_path / "x").write_bytes(b"\xff" * 100)
    with pytest.raises(Exception, match="announces"):
        SafetensorsFile(tmp_path / "x")
    assert made[0].closed


def test_released_bytes_can_be_read_again(golden: Path) -> None:
    with SafetensorsFile(golden / "gemma-mqa" / "model.safetensors") as f:
        before = f.raw.copy()
        for start, stop in [(0, f.nbytes), (5000, 70_001), (10, 20), (0, 0), (f.nbytes, f.nbytes)]:
            f.release(start, stop)
        np.testing.assert_array_equal(f.raw, before)
