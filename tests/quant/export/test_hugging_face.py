"""Folders of floats: transformers computes with them what cg computes with the blocks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cg.quant.export import FloatType, Rounding, export_safetensors
from cg.quant.export.rounding import narrow, widen
from cg.runtime.dtypes import DType
from cg.runtime.errors import NonFiniteError, OutputExistsError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint

Compare = Callable[[Path, Path], None]
MATRIX = "model.layers.3.mlp.down_proj.weight"


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_transformers_computes_the_same(
    demo_q4: Path, tmp_path: Path, dtype: FloatType, same_logits: Compare
) -> None:
    result = export_safetensors(demo_q4, tmp_path / "out", dtype=dtype)
    assert result.rounding == Rounding(5_573_888)
    assert result.types == {dtype.upper(): 56}
    same_logits(result.output, demo_q4)


def test_rounding_to_bf16_is_told(demo_q4: Path, tmp_path: Path, same_logits: Compare) -> None:
    result = export_safetensors(demo_q4, tmp_path / "out")
    with Checkpoint.open(demo_q4) as source, Checkpoint.open(result.output) as written:
        stored, rounding = narrow(source.tensors[MATRIX].dequantize(), DType.BF16, "")
        np.testing.assert_array_equal(written.tensors[MATRIX].dequantize(), widen(stored, DType.BF16))
    assert result.rounded[MATRIX] == rounding
    assert len(result.rounded) == 43
    assert result.rounded["model.embed_tokens.weight"].numbers == 4096 * 256
    assert 0 < result.rounding.largest_relative_change <= 2**-8  # half a unit in the last place
    config = json.loads((result.output / "config.json").read_text("utf-8"))
    assert config["torch_dtype"] == "bfloat16"
    # What transformers computes with is off by what the weights are off by, and no more.
    same_logits(result.output, result.output)


def test_an_original_is_copied(demo: Path, tmp_path: Path) -> None:
    result = export_safetensors(demo, tmp_path / "out")
    assert result.rounding == Rounding()
    with Checkpoint.open(demo) as source, Checkpoint.open(result.output) as written:
        for name, tensor in source.tensors.items():
            np.testing.assert_array_equal(tensor.data, written.tensors[name].data)


def test_shards_with_an_index(demo_q4: Path, tmp_path: Path, same_logits: Compare) -> None:
    limit = 3_000_000
    result = export_safetensors(demo_q4, tmp_path / "out", shard_bytes=limit)
    files = sorted(result.output.glob("*.safetensors"))
    assert [f.name for f in files] == [f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)]
    assert sum(f.stat().st_size for f in files) == result.bytes
    index = json.loads((result.output / "model.safetensors.index.json").read_text("utf-8"))
    found: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="np") as opened:
            found |= dict.fromkeys(opened.keys(), file.name)
        assert file.stat().st_size < limit + 10_000
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == 2 * 5_573_888
    same_logits(result.output, result.output)


def test_what_lies_beside_the_weights(demo_q4: Path, tmp_path: Path) -> None:
    folder = export_safetensors(demo_q4, tmp_path / "out", dtype="f32").output
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (demo_q4 / name).read_bytes()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    original = json.loads((demo_q4 / "config.json").read_text("utf-8"))
    assert config == {**original, "torch_dtype": "float32"}
    card = (folder / "README.md").read_text("utf-8")
    assert card.startswith("---\nlicense: other\n")
    assert "56 tensors F32" in card
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.metadata["cg.source"] == "demo"


def test_i8(demo_i8: Path, tmp_path: Path, same_logits: Compare) -> None:
    result = export_safetensors(demo_i8, tmp_path / "out", dtype="f32")
    same_logits(result.output, demo_i8)


def test_refusals(demo_q4: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lie in each other"):
        export_safetensors(demo_q4, demo_q4 / "inside")
    out = tmp_path / "out"
    export_safetensors(demo_q4, out)
    with pytest.raises(OutputExistsError):
        export_safetensors(demo_q4, out)
    export_safetensors(demo_q4, out, overwrite=True)


def test_a_weight_that_f16_cannot_hold(demo: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo, tmp_path / "large"))
    with Checkpoint.open(demo) as source:
        entry = next(e for e in source.shards[0].header.entries if e.name == MATRIX)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(entry.begin + 2 * 5)
        file.write(torch.tensor([1e6], dtype=torch.bfloat16).view(torch.int16).numpy().tobytes())
    with pytest.raises(NonFiniteError, match=f"{MATRIX}, rows 0 to 255: .* beyond what F16"):
        export_safetensors(folder, tmp_path / "out", dtype="f16")
    assert not (tmp_path / "out").exists()
