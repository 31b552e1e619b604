"""Completions of two models, against the engine that cg complete runs on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cg.quant import quantize
from cg.quant.agreement import Agreement, Completed
from cg.quant.evaluation_text import EvaluationText, read_held_out
from cg.quant.holes import cut_holes
from cg.quant.statistics import Estimate
from cg.quant.verify import VerifyOptions, verify
from cg.runtime import load
from cg.runtime.errors import UsageError
from cg.runtime.ops import Activations

TEXT = EvaluationText("test", read_held_out().text[:20000], "")
OPTIONS = VerifyOptions(context=64, chunks=1, holes=6)


@pytest.fixture(scope="module")
def demo_q4(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo-q4"
    quantize(demo, folder)
    return folder


@pytest.mark.parametrize("activations", ["int8", "f32"])
def test_completions_are_those_of_cg_complete(activations: Activations, demo: Path, demo_q4: Path) -> None:
    result = verify(demo_q4, demo, [TEXT], replace(OPTIONS, activations=activations))
    agreement = result.run.agreement
    assert agreement is not None
    with (
        load(demo, activations="f32", context_length=256) as original,
        load(demo_q4, activations=activations, context_length=256) as quantized,
    ):
        for hole, completed in zip(cut_holes(TEXT.text, 6), agreement.completions, strict=True):
            new = max(24, len(original.tokenizer.encode(hole.middle)))
            texts = []
            for model in (original, quantized):
                ids = model.complete(hole.prefix, hole.suffix, max_tokens=new).ids
                texts.append(model.tokenizer.decode(ids[:24]))
            assert [completed.original, completed.quantized] == texts
            assert completed.middle == hole.middle
            assert completed.equal == (texts[0] == texts[1])
    shares = sum(c.equal for c in agreement.completions)
    assert agreement.equal.value == shares / 6
    assert shares > 0


def test_a_model_agrees_with_itself(golden: Path) -> None:
    folder = golden / "gemma-mqa"
    result = verify(folder, folder, [TEXT], replace(OPTIONS, activations="f32", holes=2))
    agreement = result.run.agreement
    assert agreement is not None
    assert agreement.equal == Estimate(1.0, 0.0)
    assert agreement.common_tokens.value == agreement.original_tokens
    assert all(c.equal for c in agreement.completions)


def test_little_room_for_caches_changes_nothing(golden: Path) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    options = replace(OPTIONS, holes=3)
    whole = verify(*pair, [TEXT], options)
    assert verify(*pair, [TEXT], replace(options, hidden_bytes=1)).runs == whole.runs
    assert [s.title for s in whole.sections] == ["text", "text, middles"]
    assert whole.sections[1].passages == 3


def test_progress_reaches_the_end(golden: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    options = replace(OPTIONS, holes=2)
    verify(*pair, [TEXT], options, lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2]
    assert {"completions, original", "completions, quantized"} <= {stage for stage, _, _ in seen}


def test_shares_and_errors() -> None:
    holes = [Completed("", "", "", "", t, c, t == c) for t, c in ((4, 4), (6, 2), (5, 5), (3, 0))]
    agreement = Agreement.of(holes)
    assert agreement.equal.value == 0.5
    assert agreement.equal.error == pytest.approx((0.25 / 3) ** 0.5)
    assert agreement.common_tokens.value == pytest.approx(2.75)
    assert agreement.common_tokens.error == pytest.approx((14.75 / 4 / 3) ** 0.5)
    assert agreement.original_tokens == 4.5


@pytest.mark.parametrize("holes", [1, -2])
def test_one_hole_has_no_error(holes: int, golden: Path) -> None:
    with pytest.raises(UsageError, match=f"{holes} holes, expected 0 or at least 2"):
        verify(golden / "gemma-mqa", golden / "gemma-mqa", [TEXT], replace(OPTIONS, holes=holes))


def test_a_text_without_lines_for_holes(golden: Path) -> None:
    text = EvaluationText("short", "x\n" * 400, "")
    with pytest.raises(UsageError, match="short: the text is too short for 2 holes"):
        verify(golden / "gemma-mqa", golden / "gemma-mqa", [text], OPTIONS)
