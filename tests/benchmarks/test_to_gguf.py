"""The converter, with a writer that records what the gguf package is asked to write."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import to_gguf

from cg.runtime.formats.checkpoint import Checkpoint


class _Writer:
    """Takes every setting, checks that data come in the order of their announcement."""

    def __init__(self, path: Path, architecture: str) -> None:
        path.touch()
        self.settings: dict[str, Any] = {"architecture": architecture}
        self.announced: list[tuple[str, tuple[int, ...], str]] = []
        self.written: list[np.ndarray[Any, np.dtype[Any]]] = []

    def add_tensor_info(self, name: str, shape: tuple[int, ...], dtype: Any, nbytes: int, kind: str) -> None:
        self.announced.append((name, shape, kind))

    def write_tensor_data(self, data: np.ndarray[Any, np.dtype[Any]]) -> None:
        assert data.shape == self.announced[len(self.written)][1]
        self.written.append(data.copy())

    def __getattr__(self, name: str) -> Any:
        return lambda *values: self.settings.update({name.removeprefix("add_"): values})


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[_Writer]:
    made: list[_Writer] = []

    def open_writer(path: Path, architecture: str) -> _Writer:
        made.append(_Writer(path, architecture))
        return made[-1]

    package = SimpleNamespace(
        GGUFWriter=open_writer,
        GGMLQuantizationType=SimpleNamespace(BF16="bf16", F32="f32"),
        LlamaFileType=SimpleNamespace(MOSTLY_BF16="mostly bf16"),
    )
    monkeypatch.setitem(sys.modules, "gguf", package)
    return made


def test_every_tensor_goes_over_under_its_new_name(
    demo: Path, tmp_path: Path, writers: list[_Writer]
) -> None:
    to_gguf.convert(demo, tmp_path / "out.gguf")
    (writer,) = writers
    assert [file.name for file in tmp_path.iterdir()] == ["out.gguf"]
    assert writer.settings["architecture"] == "gemma"
    assert writer.settings["block_count"] == (6,)
    assert writer.settings["tokenizer_model"] == ("none",)
    written = {name: data for (name, _, _), data in zip(writer.announced, writer.written, strict=True)}
    kinds = {name: kind for name, _, kind in writer.announced}
    with Checkpoint.open(demo) as checkpoint:
        assert len(written) == len(checkpoint.tensors)
        matrix = checkpoint.tensors["model.layers.3.mlp.down_proj.weight"]
        norm = checkpoint.tensors["model.layers.3.input_layernorm.weight"]
        assert kinds["blk.3.ffn_down.weight"] == "bf16"
        np.testing.assert_array_equal(written["blk.3.ffn_down.weight"], matrix.storage())
        assert kinds["blk.3.attn_norm.weight"] == "f32"
        np.testing.assert_array_equal(written["blk.3.attn_norm.weight"], norm.dequantize()[0] + np.float32(1))
    assert {"token_embd.weight", "output_norm.weight", "blk.0.attn_output.weight"} <= set(written)


def test_other_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lm_head\.weight is no tensor"):
        to_gguf._name("lm_head.weight")
