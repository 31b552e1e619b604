"""Several models in one run: the same as one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import save_file

from cg.quant import compare_report
from cg.quant.compare import Comparison, compare
from cg.quant.evaluation_text import EvaluationText, read_held_out
from cg.quant.verify import VerifyOptions, verify
from cg.runtime.errors import UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.models.gemma import Gemma

TEXT = EvaluationText("test", read_held_out().text[:6000], "")
OPTIONS = VerifyOptions(context=48, chunks=2, holes=2, threads=1)


@pytest.fixture(scope="module")
def folders(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of Jlama's, and the values of one of them as another program would write them: f32."""
    plain = tmp_path_factory.mktemp("plain") / "plain"
    shutil.copytree(golden / "gemma-mqa-JQ4", plain)
    with Checkpoint.open(golden / "gemma-mqa-JQ4") as checkpoint:
        values = {
            name: np.ascontiguousarray(t.dequantize().reshape([d for d in t.shape if d > 1]))
            for name, t in checkpoint.tensors.items()
        }
    save_file(values, plain / "model.safetensors")
    return [golden / "gemma-mqa-JQ4-embed", golden / "gemma-mqa-JQ4", plain]


@pytest.fixture(scope="module")
def comparison(folders: Sequence[Path], golden: Path) -> Comparison:
    return compare(folders, golden / "gemma-mqa", [TEXT], OPTIONS)


def test_every_model_has_the_figures_that_verify_gives(
    comparison: Comparison, folders: Sequence[Path], golden: Path
) -> None:
    assert [model.folder for model in comparison.models] == folders
    for model in comparison.models[:2]:
        alone = verify(model.folder, golden / "gemma-mqa", [TEXT], OPTIONS)
        assert model.run == alone.run
        assert model.totals == alone.totals
        assert (
            model.file_bytes == alone.quantized_bytes == (model.folder / "model.safetensors").stat().st_size
        )


def test_a_plain_checkpoint_is_as_good_as_its_values(comparison: Comparison) -> None:
    _, jlama, plain = comparison.models
    # int8 activations meet quantized weights only, the rest is the same.
    assert plain.run.overall.mean_kld.value == pytest.approx(jlama.run.overall.mean_kld.value, rel=0.2)
    assert plain.totals.relative_error == jlama.totals.relative_error
    assert plain.totals.bits_per_weight == 32
    assert plain.totals.quantized_tensors == jlama.totals.quantized_tensors


def test_the_original_is_computed_once(
    folders: Sequence[Path], golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    embed = Gemma.embed

    def count(model: Gemma, ids: object) -> object:
        embedded.append(str(model.embed_tokens.dtype.value))
        return embed(model, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(Gemma, "embed", count)
    options = VerifyOptions(context=48, chunks=2, holes=0, threads=1)
    result = compare([folders[0], folders[0], folders[1]], golden / "gemma-mqa", [TEXT], options)
    assert len(result.models) == 2  # one was named twice
    # Two chunks each of the original (bf16), of the one with a quantized embedding and of the one without.
    assert sorted(embedded) == ["BF16"] * 4 + ["Q4"] * 2


def test_reports(comparison: Comparison, tmp_path: Path) -> None:
    page, text, plot = (tmp_path / f"c.{kind}" for kind in ("html", "md", "svg"))
    for path in (page, text, plot):
        compare_report.write_comparison(comparison, path)
    for model in comparison.models:
        assert model.name in page.read_text("utf-8")
        assert model.name.replace("_", "\\_") in text.read_text("utf-8")
    root = ElementTree.fromstring(plot.read_text("utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    names = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {model.name for model in comparison.models} <= names
    table = compare_report.rows(comparison)
    assert {len(row) for row in table} == {len(compare_report.heads(comparison))} == {9}


def test_models_of_the_same_name_are_told_apart(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "gemma-mqa-JQ4", tmp_path / "gemma-mqa-JQ4")
    pair = [golden / "gemma-mqa-JQ4", tmp_path / "gemma-mqa-JQ4"]
    result = compare(pair, golden / "gemma-mqa", [TEXT], VerifyOptions(context=48, chunks=1, holes=0))
    assert [model.name for model in result.models] == [str(folder) for folder in pair]
    assert result.models[0].run == result.models[1].run


def test_impossible_requests(golden: Path) -> None:
    with pytest.raises(UsageError, match="no model to compare"):
        compare([], golden / "gemma-mqa")
    with pytest.raises(UsageError, match="one kind of activations"):
        compare([golden / "gemma-mqa-JQ4"], golden / "gemma-mqa", options=VerifyOptions(activations="both"))
