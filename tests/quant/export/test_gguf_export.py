"""GGUF files: what the gguf package reads out of them, and quantizes itself, is the oracle."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from cg.quant import QuantizeOptions, quantize
from cg.quant.export import Rounding, export_gguf
from cg.runtime.dtypes import DType
from cg.runtime.errors import (
    CheckpointError,
    DiskFullError,
    NonFiniteError,
    OutputExistsError,
    UsageError,
)
from cg.runtime.formats.checkpoint import Checkpoint

NORM = "model.layers.2.input_layernorm.weight"
MATRIX = "model.layers.3.mlp.down_proj.weight"


@functools.cache
def tensors(file: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def test_q4_is_what_llama_cpp_quantizes_to(demo: Path, demo_q4: Path, tmp_path: Path) -> None:
    result = export_gguf(demo_q4, tmp_path / "demo.gguf")
    written = tensors(result.output)
    assert result.types == {"Q4_0": 43, "F32": 13}
    assert result.rounding == Rounding(174_080)
    assert result.rounded == {}
    assert result.bytes == result.output.stat().st_size
    with Checkpoint.open(demo) as original, Checkpoint.open(demo_q4) as quantized:
        assert len(written) == len(original.tensors)
        for ours, theirs in {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
            "model.layers.1.self_attn.k_proj.weight": "blk.1.attn_k.weight",
            "model.layers.2.self_attn.v_proj.weight": "blk.2.attn_v.weight",
            "model.layers.3.self_attn.o_proj.weight": "blk.3.attn_output.weight",
            "model.layers.4.mlp.gate_proj.weight": "blk.4.ffn_gate.weight",
            "model.layers.5.mlp.up_proj.weight": "blk.5.ffn_up.weight",
            MATRIX: "blk.3.ffn_down.weight",
        }.items():
            tensor = written[theirs]
            assert tensor.tensor_type is gguf.GGMLQuantizationType.Q4_0
            assert tuple(tensor.shape) == original.tensors[ours].shape[::-1]
            wanted = gguf.quantize(original.tensors[ours].dequantize(), gguf.GGMLQuantizationType.Q4_0)
            np.testing.assert_array_equal(tensor.data, wanted)
            read = gguf.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(read, quantized.tensors[ours].dequantize())


def test_norms_hold_one_more(demo: Path, demo_gguf: Path) -> None:
    written = tensors(demo_gguf)
    with Checkpoint.open(demo) as original:
        for ours, theirs in {
            NORM: "blk.2.attn_norm.weight",
            "model.layers.2.post_attention_layernorm.weight": "blk.2.ffn_norm.weight",
            "model.norm.weight": "output_norm.weight",
        }.items():
            weight = original.tensors[ours].dequantize().reshape(-1)
            assert written[theirs].tensor_type is gguf.GGMLQuantizationType.F32
            np.testing.assert_array_equal(written[theirs].data, 1 + weight)


def test_i8_keeps_its_integers(demo_i8: Path, tmp_path: Path) -> None:
    result = export_gguf(demo_i8, tmp_path / "demo.gguf")
    assert result.types == {"Q8_0": 43, "F32": 13}
    assert 0 < result.rounding.changed < result.rounding.numbers == 174_080
    assert 0 < result.rounding.largest_relative_change <= 2**-11  # half a unit in f16's last place
    assert len(result.rounded) == 43
    blocks = tensors(result.output)["blk.3.ffn_down.weight"].data.reshape(-1, 34)
    with Checkpoint.open(demo_i8) as quantized:
        tensor = quantized.tensors[MATRIX]
        np.testing.assert_array_equal(blocks[:, 2:].view(np.int8).reshape(tensor.shape), tensor.storage())
        assert tensor.scales is not None
        halves = tensor.scales.astype(np.float16).reshape(-1)
    np.testing.assert_array_equal(np.ascontiguousarray(blocks[:, :2]).view(np.float16).reshape(-1), halves)


def test_an_original_goes_over_as_it_is(demo: Path, tmp_path: Path) -> None:
    result = export_gguf(demo, tmp_path / "demo.gguf")
    assert result.types == {"BF16": 43, "F32": 13}
    assert result.rounding == Rounding()
    tensor = tensors(result.output)["blk.3.ffn_down.weight"]
    assert tensor.tensor_type is gguf.GGMLQuantizationType.BF16
    with Checkpoint.open(demo) as original:
        np.testing.assert_array_equal(tensor.data.view(np.uint16), original.tensors[MATRIX].storage())


def test_mixed_types(demo: Path, tmp_path: Path) -> None:
    quantize(demo, tmp_path / "mixed", QuantizeOptions(keep=("norm", "embed", "down_proj")))
    result = export_gguf(tmp_path / "mixed", tmp_path / "mixed.gguf")
    assert result.types == {"Q4_0": 36, "BF16": 7, "F32": 13}


def test_what_jlama_wrote(golden: Path, tmp_path: Path) -> None:
    folder = golden / "gemma-mqa-JQ4-embed"
    result = export_gguf(folder, tmp_path / "out.gguf")
    written = tensors(result.output)
    with Checkpoint.open(folder) as quantized:
        assert len(written) == len(quantized.tensors)
        for name, theirs in (("model.norm.weight", "output_norm.weight"), (EMBEDDING, "token_embd.weight")):
            tensor = written[theirs]
            read = gguf.dequantize(tensor.data, tensor.tensor_type)
            wanted = quantized.tensors[name].dequantize() + (1 if "norm" in name else 0)
            np.testing.assert_allclose(read.reshape(wanted.shape), wanted, rtol=2**-11, atol=0)


EMBEDDING = "model.embed_tokens.weight"


def test_metadata(demo_q4: Path, tmp_path: Path) -> None:
    settings = json.loads((demo_q4 / "tokenizer_config.json").read_text("utf-8"))
    folder = shutil.copytree(demo_q4, tmp_path / "with-template")
    settings["chat_template"] = "{{ bos_token }}{{ messages[0].content }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    fields = gguf.GGUFReader(export_gguf(folder, tmp_path / "demo.gguf").output).fields
    found = {name: field.contents() for name, field in fields.items() if len(field.data) == 1}
    config = json.loads((demo_q4 / "config.json").read_text("utf-8"))
    wanted = {
        "general.architecture": "gemma",
        "general.type": "model",
        "general.name": "with-template",
        "general.size_label": "5.6M",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q4_0,
        "general.quantization_version": 2,
        "general.license": "other",
        "cg.source": "demo",
        "cg.method": "absmax",
        "gemma.context_length": config["max_position_embeddings"],
        "gemma.embedding_length": config["hidden_size"],
        "gemma.block_count": config["num_hidden_layers"],
        "gemma.feed_forward_length": config["intermediate_size"],
        "gemma.attention.head_count": config["num_attention_heads"],
        "gemma.attention.head_count_kv": config["num_key_value_heads"],
        "gemma.attention.key_length": config["head_dim"],
        "gemma.attention.value_length": config["head_dim"],
        "gemma.attention.layer_norm_rms_epsilon": pytest.approx(config["rms_norm_eps"]),
        "gemma.rope.freq_base": config["rope_theta"],
        "gemma.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.eot_token_id": 107,
        "tokenizer.ggml.fim_pre_token_id": 67,
        "tokenizer.ggml.fim_mid_token_id": 68,
        "tokenizer.ggml.fim_suf_token_id": 69,
        "tokenizer.ggml.fim_sep_token_id": 70,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": settings["chat_template"],
    }
    assert {key: found.get(key) for key in wanted} == wanted
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    assert (tokens[67], types[67]) == ("<|fim_prefix|>", gguf.TokenType.CONTROL)
    assert (tokens[3], types[3]) == ("<unk>", gguf.TokenType.UNKNOWN)
    assert (tokens[140], types[140]) == ("   ", gguf.TokenType.USER_DEFINED)  # as the text has them
    assert (tokens[217], types[217]) == ("<0x00>", gguf.TokenType.BYTE)
    assert len(fields["tokenizer.ggml.scores"].data) == len(tokens) == config["vocab_size"]


def test_without_a_vocabulary(demo_q4: Path, tmp_path: Path) -> None:
    fields = gguf.GGUFReader(export_gguf(demo_q4, tmp_path / "x.gguf", vocabulary=False).output).fields
    assert fields["tokenizer.ggml.model"].contents() == "none"
    assert not any(name.startswith("tokenizer.ggml.") for name in set(fields) - {"tokenizer.ggml.model"})


def test_scales_that_f16_does_not_hold(rescaled: Callable[..., Path], demo_q4: Path, tmp_path: Path) -> None:
    def change(name: str, scales: Any) -> None:
        if name == MATRIX:
            scales[1, 0] = 0.1
            scales[2, 0] = 1e-9

    result = export_gguf(rescaled(demo_q4, change), tmp_path / "out.gguf")
    move = abs(float(np.float16(np.float32(0.1))) - float(np.float32(0.1))) / float(np.float32(0.1))
    assert result.rounded == {MATRIX: Rounding(256 * 24, 2, 1, move)}


@pytest.mark.parametrize(("scale", "message"), [(7e4, "70000 is beyond what F16"), (np.nan, "NaN or inf")])
def test_scales_that_no_f16_stands_for(
    rescaled: Callable[..., Path], demo_q4: Path, tmp_path: Path, scale: float, message: str
) -> None:
    def change(name: str, scales: Any) -> None:
        if name == MATRIX:
            scales[5, 3] = scale

    folder = rescaled(demo_q4, change)
    with pytest.raises(NonFiniteError, match=message) as error:
        export_gguf(folder, tmp_path / "out.gguf")
    assert MATRIX in error.value.message
    assert [p.name for p in tmp_path.iterdir()] == ["rescaled"]


def test_a_larger_embedding_than_vocabulary(golden: Path, tmp_path: Path) -> None:
    folder = golden / "gemma-mqa"
    vocab_size = json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"]
    reader = gguf.GGUFReader(export_gguf(folder, tmp_path / "out.gguf").output)
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == vocab_size


def test_output_is_replaced_only_if_it_may(demo_q4: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo.gguf"
    first = export_gguf(demo_q4, out)
    content = out.read_bytes()
    with pytest.raises(OutputExistsError, match="exists already"):
        export_gguf(demo_q4, out)
    export_gguf(demo_q4, out, overwrite=True)
    assert out.read_bytes() == content
    assert len(content) == first.bytes
    out.write_text("a thesis")
    with pytest.raises(OutputExistsError, match="another kind of file"):
        export_gguf(demo_q4, out, overwrite=True)
    assert out.read_text() == "a thesis"
    with pytest.raises(OutputExistsError, match="is a folder"):
        export_gguf(demo_q4, tmp_path, overwrite=True)


def test_nothing_remains_of_what_is_cancelled(demo_q4: Path, tmp_path: Path) -> None:
    (tmp_path / ".demo.gguf.partial-1").write_bytes(b"of a killed run")

    def cancel(tensor: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_gguf(demo_q4, tmp_path / "demo.gguf", progress=cancel)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_total(demo_q4: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    export_gguf(demo_q4, tmp_path / "out.gguf", progress=lambda _, done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_a_full_disk_is_noticed_first(demo_q4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="1,000 free"):
        export_gguf(demo_q4, tmp_path / "out.gguf")


def test_a_missing_package_is_named(demo_q4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match="package gguf") as error:
        export_gguf(demo_q4, tmp_path / "out.gguf")
    assert error.value.hint == "pip install 'codegemma-cg[gguf]'"


def test_a_head_of_its_own_cannot_go_along(demo: Path, tmp_path: Path) -> None:
    from cg.runtime.formats.writer import SafetensorsWriter, TensorSpec

    def folder(name: str, *, tied: bool) -> Path:
        target = tmp_path / name
        shutil.copytree(demo, target, ignore=shutil.ignore_patterns("*.safetensors"))
        with Checkpoint.open(demo) as original:
            stored = dict(original.tensors)
            head = stored[EMBEDDING].data.copy()
            head[0] ^= not tied
            specs = [TensorSpec(t.name, t.dtype, t.shape) for t in stored.values()]
            specs.append(TensorSpec("lm_head.weight", DType.BF16, stored[EMBEDDING].shape))
            with SafetensorsWriter(target / "model.safetensors", specs, {}) as writer:
                for tensor in stored.values():
                    writer.write(tensor.name, 0, tensor.data)
                writer.write("lm_head.weight", 0, head)
                writer.finish({})
        return target

    result = export_gguf(folder("tied", tied=True), tmp_path / "tied.gguf")
    assert len(tensors(result.output)) == 56
    assert "left out" in result.notes[0]
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        export_gguf(folder("untied", tied=False), tmp_path / "untied.gguf")
