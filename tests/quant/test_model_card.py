"""README.md of a quantized model."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cg.quant import QuantizeOptions, quantize
from cg.quant.model_card import front_matter
from cg.quant.provenance import Source, identify


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "---\nlicense: gemma\nlicense_link: https://x\ntags:\n- a\n---\n# Model",
            {"license": "gemma", "license_link": "https://x"},
        ),
        ("---\r\nlicense: apache-2.0\r\n---\r\n", {"license": "apache-2.0"}),
        ("---\nlicense:\n---\n", {}),
        ("# No header\nlicense: mit\n", {}),
        ("---\nlicense: mit\n", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_licence_of_the_source(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert front_matter(tmp_path) == expected


def test_source_without_readable_card(tmp_path: Path) -> None:
    assert front_matter(tmp_path) == {}
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert front_matter(tmp_path) == {}


def test_huggingface_hub_reads_the_card(golden: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--google--codegemma-2b" / "snapshots" / ("0" * 40)
    shutil.copytree(golden / "gemma-mqa", snapshot)
    quantize(snapshot, tmp_path / "out", QuantizeOptions(jlama_runnable=True))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "gemma"
    assert card.data.base_model == "google/codegemma-2b"
    assert card.data["base_model_relation"] == "quantized"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["codegemma", "gemma", "cg", "jlama", "4-bit"]
    assert "| quantized | 21 of 29 tensors; kept: names with `norm`, `embed_tokens` |" in card.text
    assert "| bits per weight | 5.99, before 16.00 |" in card.text
    assert "| runs in Jlama | yes" in card.text


def test_the_licence_is_inherited_and_never_invented(golden: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine"
    shutil.copytree(golden / "gemma-mqa", source)
    quantize(source, tmp_path / "plain")
    assert "icen" not in (tmp_path / "plain" / "README.md").read_text()
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    quantize(source, tmp_path / "mit", QuantizeOptions("i8"))
    card = ModelCard.load(tmp_path / "mit" / "README.md")
    assert card.data.license == "mit"
    assert "8-bit" in (card.data.tags or [])
    assert "Gemma Terms" not in card.text


def test_sources_are_named_after_what_their_folder_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "1" * 40
    cached = tmp_path / "models--google--codegemma-1.1-7b-it" / "snapshots" / commit
    assert identify(cached) == Source("codegemma-1.1-7b-it", "google/codegemma-1.1-7b-it", commit)
    assert identify(tmp_path / "my-model") == Source("my-model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert identify(Path()) == Source("here")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are always Unicode")
def test_folder_names_may_be_any_bytes(golden: Path, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"bad\xff\nname")
    shutil.copytree(golden / "gemma-mha-wide", source)
    assert identify(source) == Source("bad??name")
    quantize(source, tmp_path / "out")
    assert "# bad??name, quantized to Q4" in (tmp_path / "out" / "README.md").read_text()
