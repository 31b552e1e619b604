"""Folders for vLLM: the package compressed-tensors unpacks them, transformers runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig

from cg.quant import QuantizeOptions, quantize
from cg.quant.export import export_compressed_tensors
from cg.quant.export.blocks import to_int32_words
from cg.runtime.dtypes import DType
from cg.runtime.errors import UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.tensor import Bytes, Tensor

Compare = Callable[[Path, Path], None]
MATRIX = "model.layers.3.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def stored(folder: Path) -> dict[str, Tensor]:
    """The tensors of the only file."""
    with SafetensorsFile(folder / "model.safetensors") as file:
        return dict(file.stored)


def test_words_are_what_the_package_packs() -> None:
    values = np.random.default_rng(3).integers(-8, 8, (6, 96), dtype=np.int8)
    blocks = (values + 8).astype(np.uint8).reshape(-1, 2, 16)
    packed: Bytes = (blocks[:, 0] | blocks[:, 1] << np.uint8(4)).reshape(-1)
    ours = to_int32_words(packed).reshape(6, 12)
    np.testing.assert_array_equal(ours, pack_to_int32(torch.from_numpy(values), 4).numpy())


def test_the_package_unpacks_what_q4_means(demo_q4: Path, tmp_path: Path) -> None:
    result = export_compressed_tensors(demo_q4, tmp_path / "out")
    assert result.types == {"int4 packed, scales F16": 42, "BF16": 13, "F16": 1}
    assert result.rounding.exact
    found = stored(result.output)
    with Checkpoint.open(demo_q4) as source:
        for name in (MATRIX, "model.layers.0.self_attn.k_proj.weight"):
            tensor = source.tensors[name]
            shape = torch.from_numpy(found[f"{name}_shape"].storage().copy())
            assert tuple(shape.tolist()) == tensor.shape
            packed = torch.from_numpy(found[f"{name}_packed"].storage().copy())
            integers = unpack_from_int32(packed, 4, shape).numpy().astype(np.float32)
            scales = found[f"{name}_scale"].dequantize()
            values = integers.reshape(*scales.shape, 32) * scales[..., None]
            np.testing.assert_array_equal(values.reshape(tensor.shape), tensor.dequantize())
        np.testing.assert_array_equal(found[EMBEDDING].dequantize(), source.tensors[EMBEDDING].dequantize())


def test_transformers_computes_the_same(demo_q4: Path, tmp_path: Path, same_logits: Compare) -> None:
    result = export_compressed_tensors(demo_q4, tmp_path / "out", shard_bytes=1_000_000)
    assert len(list(result.output.glob("model-*.safetensors"))) > 1
    same_logits(result.output, demo_q4)


def test_layers_that_are_not_q4(demo: Path, tmp_path: Path, same_logits: Compare) -> None:
    quantize(demo, tmp_path / "mixed", QuantizeOptions(keep=("norm", "embed", "layers.3.mlp", "o_proj")))
    folder = export_compressed_tensors(tmp_path / "mixed", tmp_path / "out").output
    config = json.loads((folder / "config.json").read_text("utf-8"))["quantization_config"]
    kept = [f"model.layers.{i}.self_attn.o_proj" for i in range(6)]
    kept += [f"model.layers.3.mlp.{p}_proj" for p in ("gate", "up", "down")]
    assert set(config["ignore"]) == {"lm_head", *kept}
    assert stored(folder)[MATRIX].dtype is DType.BF16
    same_logits(folder, tmp_path / "mixed")


def test_the_config_is_one_of_the_package(demo_q4: Path, tmp_path: Path) -> None:
    folder = export_compressed_tensors(demo_q4, tmp_path / "out").output
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    assert raw["torch_dtype"] == "float16"
    told = raw["quantization_config"]
    complete = QuantizationConfig(**told).model_dump(mode="json")
    assert told["quant_method"] == complete["quant_method"]
    assert {key: complete[key] for key in told if key != "config_groups"} == {
        key: value for key, value in told.items() if key != "config_groups"
    }
    weights = complete["config_groups"]["group_0"]["weights"]
    mine = told["config_groups"]["group_0"]["weights"]
    assert {key: weights[key] for key in mine} == mine


@pytest.mark.parametrize(
    ("scale", "dtype", "name"),
    [(0.5, DType.F16, "float16"), (2.0**-30, DType.BF16, "bfloat16"), (0.1, DType.F32, "float32")],
)
def test_scales_keep_every_bit(
    rescaled: Callable[..., Path], demo_q4: Path, tmp_path: Path, scale: float, dtype: DType, name: str
) -> None:
    def change(tensor: str, scales: Any) -> None:
        if tensor == MATRIX:
            scales[2, 3] = scale

    folder = rescaled(demo_q4, change)
    result = export_compressed_tensors(folder, tmp_path / "out")
    written = stored(result.output)[f"{MATRIX}_scale"]
    assert written.dtype is dtype
    with Checkpoint.open(folder) as source:
        scales = source.tensors[MATRIX].scales
        assert scales is not None
        np.testing.assert_array_equal(written.dequantize(), scales)
    assert MATRIX not in result.rounded
    assert json.loads((result.output / "config.json").read_text("utf-8"))["torch_dtype"] == name


def test_an_embedding_that_is_rounded_is_told(
    rescaled: Callable[..., Path], demo_q4: Path, tmp_path: Path
) -> None:
    def change(tensor: str, scales: Any) -> None:
        if tensor == EMBEDDING:
            scales[1, 1] = np.float16(0.1)  # times 7 it has more bits than f16

    result = export_compressed_tensors(rescaled(demo_q4, change), tmp_path / "out")
    assert result.rounded.keys() == {EMBEDDING}
    assert 0 < result.rounded[EMBEDDING].largest_relative_change <= 2**-11


def test_what_has_no_q4_is_refused(demo: Path, demo_i8: Path, tmp_path: Path) -> None:
    for folder in (demo, demo_i8):
        with pytest.raises(UsageError, match="no Q4 matrices"):
            export_compressed_tensors(folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
