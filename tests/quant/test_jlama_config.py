"""What Jlama demands of config.json, and what cannot be helped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cg.quant import QuantizeOptions, quantize
from cg.quant.jlama_config import jlama_config
from cg.runtime.errors import UsageError

OPTIONS = QuantizeOptions(jlama_runnable=True)
GOOD: dict[str, Any] = {
    "model_type": "gemma", "hidden_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 1,
    "head_dim": 256,
    "hidden_act": "gelu", "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "bos_token_id": 2, "eos_token_id": 1, "rope_scaling": None,
}  # fmt: skip


def changed(**changes: Any) -> tuple[dict[str, Any], list[str]]:
    raw = {k: v for k, v in {**GOOD, **changes}.items() if v != "absent"}
    config, notes = jlama_config(raw, OPTIONS, has_tokenizer=True)
    return {k: v for k, v in config.items() if k not in GOOD or GOOD[k] != v}, notes


def test_a_good_config_stays_as_it_is() -> None:
    assert changed() == ({}, [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eos_token_id": [1, 107]}, {}),
        ({"eos_token_id": [107, 1]}, {"eos_token_id": 107}),
        ({"eos_token_id": "absent"}, {}),
        ({"hidden_act": "gelu_new"}, {"hidden_act": "gelu_pytorch_tanh"}),
        ({"hidden_act": "absent"}, {"hidden_act": "gelu_pytorch_tanh"}),
        ({"hidden_act": None}, {"hidden_act": "gelu_pytorch_tanh"}),
        ({"rope_scaling": {"type": "default"}}, {}),
        ({"num_key_value_heads": "absent"}, {"num_key_value_heads": 8}),
        ({"head_dim": "absent"}, {}),
        ({"max_position_embeddings": "absent", "rms_norm_eps": "absent"}, {}),
    ],
)
def test_changes_are_made_and_told(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    config, notes = changed(**changes)
    assert config == expected
    assert len(notes) == len(changes)
    assert all(note.startswith(f"config.json: {key} is ") for note, key in zip(notes, changes, strict=True))


def test_rope_theta_comes_from_where_transformers_5_writes_it() -> None:
    rope = {"rope_type": "default", "rope_theta": 500.0}
    config, notes = changed(rope_theta="absent", rope_parameters=rope)
    assert config == {"rope_theta": 500.0, "rope_parameters": rope}
    assert notes == ["config.json: rope_theta is 500.0 for Jlama, was 'absent'"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"hidden_size": 3072, "num_attention_heads": 16}, "3072 / 16"),
        ({"hidden_size": "absent"}, "head size"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    ],
)
def test_models_that_jlama_cannot_run(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=f"Jlama cannot run this model: .*{match}"):
        changed(**changes)


def test_jlama_has_no_i8() -> None:
    with pytest.raises(UsageError, match="no kernels for I8"):
        jlama_config(GOOD, QuantizeOptions("i8", jlama_runnable=True), has_tokenizer=True)


def test_jlama_needs_tokenizer_json(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "gemma-mqa", tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        quantize(tmp_path / "source", tmp_path / "out", OPTIONS)


def test_the_7b_shape_is_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="96 / 4"):
        quantize(golden / "gemma-mha-wide", tmp_path / "out", OPTIONS)


def test_the_config_is_written_and_the_change_is_reported(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "gemma-mqa", tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, "eos_token_id": [1, 107]}))
    result = quantize(tmp_path / "source", tmp_path / "out", OPTIONS)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config
    assert result.notes == ("config.json: eos_token_id is 1 for Jlama, was [1, 107]",)
