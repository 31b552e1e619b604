"""GGUF files as folders: round trips, files of other programs, and files that are no Gemma."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from cg.quant.evaluation_text import read_held_out
from cg.quant.export import FloatType, Rounding, export_gguf, import_gguf
from cg.quant.export.rounding import narrow, widen
from cg.runtime import load
from cg.runtime.dtypes import DType
from cg.runtime.errors import (
    CheckpointError,
    FormatError,
    NonFiniteError,
    OutputExistsError,
    TokenizerError,
    UsageError,
)
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.tokenizer import Tokenizer

EMBEDDING = "model.embed_tokens.weight"
QUANT = gguf.GGMLQuantizationType
Rewritten = Callable[..., Path]


def same(a: Path, b: Path) -> None:
    """Two folders hold the same tensors: types, shapes, bytes and scales."""
    with Checkpoint.open(a) as ours, Checkpoint.open(b) as theirs:
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, tensor in ours.tensors.items():
            other = theirs.tensors[name]
            assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
            np.testing.assert_array_equal(tensor.data, other.data)
            assert (tensor.scales is None) == (other.scales is None)
            if tensor.scales is not None and other.scales is not None:
                assert tensor.scales.tobytes() == other.scales.tobytes(), name


def test_q4_comes_back_to_the_bit(demo_q4: Path, demo_gguf: Path, tmp_path: Path) -> None:
    result = import_gguf(demo_gguf, tmp_path / "back")
    same(demo_q4, result.output)
    assert result.types == {"Q4": 43, "BF16": 13}
    assert result.rounding == Rounding()
    assert result.bytes == (result.output / "model.safetensors").stat().st_size
    again = export_gguf(result.output, tmp_path / "again.gguf").output
    ours, theirs = gguf.GGUFReader(again).tensors, gguf.GGUFReader(demo_gguf).tensors
    for a, b in zip(ours, theirs, strict=True):
        assert (a.name, a.tensor_type) == (b.name, b.tensor_type)
        np.testing.assert_array_equal(a.data, b.data)


def test_i8_comes_back_to_the_bit(half_scaled: Path, tmp_path: Path) -> None:
    exported = export_gguf(half_scaled, tmp_path / "demo.gguf")
    assert exported.rounding.exact
    same(half_scaled, import_gguf(exported.output, tmp_path / "back").output)


def test_an_original_comes_back_to_the_bit(demo: Path, tmp_path: Path) -> None:
    file = export_gguf(demo, tmp_path / "demo.gguf").output
    same(demo, import_gguf(file, tmp_path / "back").output)


def test_it_runs_as_before(demo_q4: Path, demo_gguf: Path, tmp_path: Path) -> None:
    folder = import_gguf(demo_gguf, tmp_path / "back").output
    wanted = json.loads((demo_q4 / "config.json").read_text("utf-8"))
    assert json.loads((folder / "config.json").read_text("utf-8")) == wanted
    ours, theirs = Tokenizer.load(folder), Tokenizer.load(demo_q4)
    text = read_held_out().text[:20_000] + "<|fim_prefix|>a\tb  \n\n\n<pad> é漢字🙂<unused7>"
    assert ours.encode(text) == theirs.encode(text)
    with load(folder) as imported, load(demo_q4) as model:
        arguments = ("def add(a, b):\n    return", "\n\nprint(add(1, 2))\n")
        a, b = (m.complete(*arguments, max_tokens=24) for m in (imported, model))
        assert a.ids == b.ids
        assert imported.stop_ids == model.stop_ids


def test_provenance_comes_along(demo_q4: Path, demo_gguf: Path, tmp_path: Path) -> None:
    with Checkpoint.open(import_gguf(demo_gguf, tmp_path / "back").output) as checkpoint:
        found = checkpoint.metadata
    with Checkpoint.open(demo_q4) as checkpoint:
        assert found.items() >= checkpoint.metadata.items()
    assert found["cg.imported_from"] == "demo.gguf"


def test_a_chat_template_comes_along(demo_gguf: Path, tmp_path: Path, rewritten: Rewritten) -> None:
    template = "{{ bos_token }}<start_of_turn>{{ messages[0].content }}"
    chatty = rewritten(demo_gguf, tmp_path / "chat.gguf", metadata={"tokenizer.chat_template": template})
    with load(import_gguf(chatty, tmp_path / "back").output) as model:
        assert model.template.source == template


def q6_k(rows: int, cols: int) -> Any:
    """Random Q6_K blocks, scales finite."""
    blocks = np.random.default_rng(5).integers(0, 256, (rows * cols // 256, 210), dtype=np.uint8)
    scales = np.random.default_rng(6).uniform(-1e-3, 1e-3, len(blocks)).astype(np.float16)
    blocks[:, 208:] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_other_blocks_are_expanded(
    demo: Path, demo_gguf: Path, tmp_path: Path, dtype: FloatType, rewritten: Rewritten
) -> None:
    with Checkpoint.open(demo) as original:
        weight = original.tensors["model.layers.0.mlp.up_proj.weight"].dequantize()
    foreign = {
        "token_embd.weight": (q6_k(4096, 256), QUANT.Q6_K),
        "blk.0.ffn_up.weight": (gguf.quantize(weight, QUANT.Q5_1), QUANT.Q5_1),
    }
    mixed = rewritten(demo_gguf, tmp_path / "mixed.gguf", tensors=foreign)
    with pytest.raises(UsageError, match=r"token_embd\.weight is Q6_K") as error:
        import_gguf(mixed, tmp_path / "back")
    assert "expands Q5_1, Q6_K" in (error.value.hint or "")
    result = import_gguf(mixed, tmp_path / "back", dequantize=dtype)
    kind = DType(dtype.upper())
    assert result.types == {
        "Q4": 41, "BF16": 13, f"{kind.value} from Q6_K": 1, f"{kind.value} from Q5_1": 1,
    }  # fmt: skip
    with Checkpoint.open(result.output) as checkpoint:
        for name, theirs in (
            (EMBEDDING, "token_embd.weight"),
            ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"),
        ):
            wanted, rounding = narrow(gguf.dequantize(*foreign[theirs]), kind, "")
            tensor = checkpoint.tensors[name]
            assert tensor.dtype is kind
            np.testing.assert_array_equal(tensor.dequantize(), widen(wanted, kind))
            assert rounding.exact == (name not in result.rounded)
    assert result.rounding.exact == (dtype == "f32")


def test_expanded_numbers_must_fit(demo_gguf: Path, tmp_path: Path, rewritten: Rewritten) -> None:
    blocks = q6_k(4096, 256)
    blocks.reshape(-1, 210)[7, 208:] = np.array([np.inf], np.float16).view(np.uint8)
    broken = rewritten(demo_gguf, tmp_path / "x.gguf", tensors={"token_embd.weight": (blocks, QUANT.Q6_K)})
    with pytest.raises(NonFiniteError, match="token_embd"):
        import_gguf(broken, tmp_path / "back", dequantize="f32")
    assert not (tmp_path / "back").exists()


def test_norms_that_bf16_does_not_hold(demo_gguf: Path, tmp_path: Path, rewritten: Rewritten) -> None:
    norm = np.linspace(0.1, 3, 256, dtype=np.float32)
    changed = {"output_norm.weight": (norm, QUANT.F32)}
    result = import_gguf(rewritten(demo_gguf, tmp_path / "x.gguf", tensors=changed), tmp_path / "back")
    with Checkpoint.open(result.output) as checkpoint:
        tensor = checkpoint.tensors["model.norm.weight"]
        assert tensor.dtype is DType.F32
        np.testing.assert_array_equal(tensor.dequantize()[0], norm - np.float32(1))


def test_names_of_other_converters(
    demo_q4: Path, demo_gguf: Path, tmp_path: Path, rewritten: Rewritten
) -> None:
    """Older files name the tokens for the middle otherwise and leave ids out that are clear."""
    tokens = gguf.GGUFReader(demo_gguf).fields["tokenizer.ggml.tokens"].contents()
    tokens[67] = "<unused60>"
    changed = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.padding_token_id": None, "cg.source": None}
    folder = import_gguf(
        rewritten(demo_gguf, tmp_path / "x.gguf", metadata=changed), tmp_path / "back"
    ).output
    assert Tokenizer.load(folder).control_id("<|fim_prefix|>") == 67
    assert json.loads((folder / "config.json").read_text("utf-8"))["pad_token_id"] == 0
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.metadata["cg.source"] == demo_q4.name


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"general.architecture": "gemma2"}, CheckpointError, "architecture is 'gemma2'"),
        ({"split.count": 3}, UsageError, "one of 3 files"),
        ({"gemma.block_count": None}, CheckpointError, r"gemma\.block_count is missing"),
        ({"gemma.block_count": 7}, CheckpointError, r"model\.layers\.6"),
        ({"gemma.attention.head_count": 5}, CheckpointError, "q_proj"),
        ({"gemma.attention.layer_norm_rms_epsilon": 0.0}, CheckpointError, "rms_norm_eps"),
        ({"tokenizer.ggml.model": "gpt2"}, TokenizerError, "the tokenizer is 'gpt2'"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, TokenizerError, "2 tokens with 4096 scores"),
        ({"tokenizer.ggml.scores": None}, TokenizerError, "scores is missing"),
        ({"tokenizer.ggml.eos_token_id": 70000}, TokenizerError, "id of the eos token is 70000"),
        ({"tokenizer.ggml.token_type": [1] * 4096}, TokenizerError, "0 unknown tokens"),
        ({"tokenizer.ggml.token_type": [9] * 4096}, TokenizerError, "token type 9"),
    ],
)
def test_what_is_no_gemma(
    demo_gguf: Path,
    tmp_path: Path,
    metadata: dict[str, Any],
    error: type[Exception],
    message: str,
    rewritten: Rewritten,
) -> None:
    changed = rewritten(demo_gguf, tmp_path / "changed.gguf", metadata=metadata)
    with pytest.raises(error, match=message) as raised:
        import_gguf(changed, tmp_path / "back")
    assert "partial-" not in str(raised.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["changed.gguf"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("token_embd.weight", None, "no matrix token_embd"),
        ("blk.3.ffn_up.weight", None, r"model\.layers\.3\.mlp\.up_proj"),
        ("blk.3.ffn_up.weight", np.zeros(256, np.float32), r"shape \[256\], no matrix"),
        ("blk.3.attn_norm.weight", np.zeros((2, 256), np.float32), "expected a vector"),
        ("blk.3.attn_norm.weight", np.zeros(128, np.float32), "input_layernorm"),
    ],
)
def test_tensors_that_do_not_fit(
    demo_gguf: Path, tmp_path: Path, name: str, data: Any, message: str, rewritten: Rewritten
) -> None:
    changes = {name: None if data is None else (data, QUANT.F32)}
    with pytest.raises(FormatError, match=message):
        import_gguf(rewritten(demo_gguf, tmp_path / "x.gguf", tensors=changes), tmp_path / "back")


def test_tensors_that_gemma_has_not(demo_gguf: Path, tmp_path: Path, rewritten: Rewritten) -> None:
    other = rewritten(demo_gguf, tmp_path / "x.gguf", rename=lambda name: name.replace("ffn_up", "ffn_side"))
    with pytest.raises(CheckpointError, match=r"'blk\.0\.ffn_side\.weight' is no tensor"):
        import_gguf(other, tmp_path / "back")


def test_source_and_output_stay_apart(demo_q4: Path, demo_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lie in each other"):
        import_gguf(demo_gguf, demo_gguf.parent, overwrite=True)
    import_gguf(demo_gguf, tmp_path / "back")
    with pytest.raises(OutputExistsError):
        import_gguf(demo_gguf, tmp_path / "back")
    import_gguf(demo_gguf, tmp_path / "back", overwrite=True)
    same(demo_q4, tmp_path / "back")
