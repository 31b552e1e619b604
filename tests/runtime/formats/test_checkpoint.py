"""Folders: config, single file, shards and index."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cg.runtime.dtypes import DType
from cg.runtime.errors import (
    CgError,
    CheckpointError,
    DuplicateNameError,
    IndexPathError,
    InvalidIndexError,
    MissingScalesError,
    MissingShardError,
    MissingTensorError,
    TruncatedFileError,
)
from cg.runtime.formats.checkpoint import Checkpoint

Sharded = Callable[..., Path]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path: Path) -> Sharded:
    """``sharded(weight_map, config)``: a folder with shards one (a, b) and two (c)."""

    def build(weight_map: Any = None, config: str = '{"model_type": "gemma"}') -> Path:
        (tmp_path / "config.json").write_text(config)
        ones = {"a": np.ones(2, np.float32), "b": np.zeros((2, 3), np.float32)}
        save_file(ones, tmp_path / "one.safetensors", {"from": "one", "x": "1"})
        save_file({"c": np.arange(4.0)}, tmp_path / "two.safetensors", {"from": "two", "y": "2"})
        if weight_map is None:
            weight_map = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
        (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return tmp_path

    return build


def refused(folder: Path, error: type[CgError], match: str) -> CgError:
    with pytest.raises(error, match=match) as caught:
        Checkpoint.open(folder)
    assert type(caught.value) is error
    return caught.value


def test_single_file(golden: Path) -> None:
    with Checkpoint.open(golden / "gemma-mqa-JQ4") as checkpoint:
        assert checkpoint.config["model_type"] == "gemma"
        assert checkpoint.files == (golden / "gemma-mqa-JQ4" / "model.safetensors",)
        assert len(checkpoint.tensors) == 29
        assert checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].dtype is DType.Q4


def test_shards(sharded: Sharded) -> None:
    with Checkpoint.open(sharded()) as checkpoint:
        assert sorted(checkpoint.tensors) == ["a", "b", "c"]
        assert [f.name for f in checkpoint.files] == ["one.safetensors", "two.safetensors"]
        assert checkpoint.metadata == {"from": "one", "x": "1", "y": "2"}
        assert checkpoint.tensors["c"].storage().tolist() == [0, 1, 2, 3]


def test_index_wins_over_a_single_file(sharded: Sharded, golden: Path) -> None:
    folder = sharded()
    shutil.copy(golden / "edge" / "model.safetensors", folder / "model.safetensors")
    with Checkpoint.open(folder) as checkpoint:
        assert sorted(checkpoint.tensors) == ["a", "b", "c"]


def test_tensors_that_the_index_leaves_out_count(sharded: Sharded) -> None:
    with Checkpoint.open(sharded({"a": "one.safetensors"})) as checkpoint:
        assert sorted(checkpoint.tensors) == ["a", "b"]


def test_scales_may_lie_in_another_shard(tmp_path: Path, pack: Any, entry: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "1.safetensors").write_bytes(pack({"a": entry("Q4", [1, 32], 0, 16)}, bytes(16)))
    scales = np.float32(2).tobytes()
    (tmp_path / "2.safetensors").write_bytes(pack({"a.qb": entry("F32", [1, 1], 0, 4)}, scales))
    weight_map = {"a": "1.safetensors", "a.qb": "2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.tensors["a"].dequantize().tolist() == [[-16.0] * 32]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    refused(tmp_path, MissingScalesError, "without its scales")


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")
def test_files_may_be_links_as_in_the_hubs_cache(sharded: Sharded) -> None:
    folder = sharded()
    blobs = folder / "blobs"
    blobs.mkdir()
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", INDEX, "one.safetensors", "two.safetensors"):
        (folder / name).rename(blobs / f"sha-{name}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"sha-{name}")
    with Checkpoint.open(snapshot) as checkpoint:
        assert sorted(checkpoint.tensors) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "file",
    [
        "../one.safetensors", "/etc/one.safetensors", "sub/one.safetensors", "..", ".", "./one.safetensors",
        "..\\one.safetensors", "C:one.safetensors", "C:\\one.safetensors", "one.safetensors/",
        "//host/x.safetensors",
    ],
)  # fmt: skip
def test_index_may_not_leave_the_folder(sharded: Sharded, file: str) -> None:
    refused(sharded({"a": file}), IndexPathError, "leads out of the folder")


@pytest.mark.parametrize(
    "file", ["", "config.json", "one.safetensors\n", "a\x00.safetensors", "\x1b.safetensors"]
)
def test_index_names_safetensors_files(sharded: Sharded, file: str) -> None:
    refused(sharded({"a": file}), InvalidIndexError, "not the name of a safetensors file")


@pytest.mark.parametrize("weight_map", [[], {}, "one.safetensors", 3, {"a": 1}, {"a": ["one.safetensors"]}])
def test_index_of_wrong_types(sharded: Sharded, weight_map: Any) -> None:
    refused(sharded(weight_map), InvalidIndexError, "not a JSON object|not a string")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": NaN}', "[" * 100_000, "\xff", "{}"])
def test_index_that_is_not_json(sharded: Sharded, text: str) -> None:
    folder = sharded()
    (folder / INDEX).write_text(text, encoding="latin-1")
    refused(folder, InvalidIndexError, INDEX)


def test_index_with_a_name_twice(sharded: Sharded) -> None:
    folder = sharded()
    (folder / INDEX).write_text('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}')
    refused(folder, DuplicateNameError, "'a' occurs twice")


def test_missing_shard(sharded: Sharded) -> None:
    folder = sharded()
    (folder / "two.safetensors").unlink()
    assert "two.safetensors" in refused(folder, MissingShardError, "does not exist").message


def test_tensor_that_the_shard_lacks(sharded: Sharded) -> None:
    folder = sharded({"a": "one.safetensors", "c": "one.safetensors"})
    refused(folder, MissingTensorError, "'c' is not in 'one.safetensors'")


def test_tensor_in_two_shards(sharded: Sharded) -> None:
    folder = sharded({"a": "one.safetensors", "b": "copy.safetensors"})
    shutil.copy(folder / "one.safetensors", folder / "copy.safetensors")
    refused(folder, DuplicateNameError, "in another shard")


def test_damaged_shard(sharded: Sharded) -> None:
    folder = sharded()
    content = (folder / "two.safetensors").read_bytes()
    (folder / "two.safetensors").write_bytes(content[:-1])
    assert "two.safetensors" in refused(folder, TruncatedFileError, "the file has 31").message


def test_missing_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent", CheckpointError, "does not exist").hint


def test_file_instead_of_a_folder(golden: Path) -> None:
    refused(golden / "edge" / "model.safetensors", CheckpointError, "is a file")


def test_folder_without_config(golden: Path) -> None:
    assert refused(golden / "edge", CheckpointError, r"no config\.json").hint


def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, CheckpointError, "no model.safetensors")


@pytest.mark.parametrize("config", ["", "[]", "{", '{"a": Infinity}', "{" * 100_000])
def test_config_that_is_not_json(sharded: Sharded, config: str) -> None:
    refused(sharded(config=config), CheckpointError, r"config\.json")


def test_config_of_absurd_size(sharded: Sharded) -> None:
    folder = sharded()
    with (folder / "config.json").open("wb") as f:
        f.truncate((64 << 20) + 1)
    refused(folder, CheckpointError, "larger than 64 MiB")


def test_close_lets_go_of_the_files(sharded: Sharded) -> None:
    checkpoint = Checkpoint.open(sharded())
    maps = [s._map for s in checkpoint.shards]
    checkpoint.close()
    assert all(m.closed for m in maps)
    assert not checkpoint.tensors
