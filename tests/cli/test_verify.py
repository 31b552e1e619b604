"""``cg verify`` as a user runs it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app
from cg.quant import verify_text
from cg.quant.statistics import Estimate, Figures, score_tokens, summarize
from cg.runtime.formats.checkpoint import Checkpoint

SMALL = ("--context", "32", "--chunks", "2", "--backend", "numpy", "--holes", "0")


def cg(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture
def pair(golden: Path) -> tuple[object, ...]:
    return golden / "gemma-mqa-JQ4", "--against", golden / "gemma-mqa"


def test_table_and_sentence(pair: tuple[object, ...]) -> None:
    result = cg("verify", *pair, *SMALL)
    assert result.exit_code == 0
    for name in (
        "perplexity, original",
        "perplexity, quantized",
        "mean KL divergence",
        "same likeliest token",
    ):
        (line,) = [line for line in result.stdout.splitlines() if line.strip().startswith(name)]
        assert re.search(r"\d+\.\d+ ± \d+\.\d+", line)
    assert "hold the same next token for the likeliest.\nTensors: relative error 0." in result.stdout
    assert re.search(r"^Hidden states: \d+\.\d\d % off after the first layer, ", result.stdout, re.M)
    assert result.stdout.rstrip().endswith(" bits per weight.")
    assert "percentile" not in result.stdout
    assert result.stderr.startswith(
        "30 tokens scored of 64 in chunks of 32, from bundled held-out python; numpy"
    )


def test_json_holds_everything(pair: tuple[object, ...], golden: Path) -> None:
    result = cg("-q", "verify", *pair, *SMALL, "--activations", "int8", "--json")
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert data["figures"]["tokens"] == 30
    figures = data["figures"]
    assert set(figures["mean_kld"]) == {"value", "error"}
    assert len(figures["kld"]) == len(figures["delta_p"]) == 13
    assert figures == data["runs"][0]["figures"][0] == data["runs"][0]["overall"]
    assert data["quantized"] == str(golden / "gemma-mqa-JQ4")
    assert data["original"] == str(golden / "gemma-mqa")
    (section,) = data["sections"]
    assert (section["context"], section["passages"], section["task"]) == (32, 2, "text")
    assert re.fullmatch("[0-9a-f]{64}", section["text_sha256"])
    (run,) = data["runs"]
    assert {**run["computed"], "isa": ""} == {
        "backend": "numpy",
        "isa": "",
        "threads": 1,
        "activations": "int8",
    }
    assert len(run["layers"]) == 4
    assert data["reference"]["activations"] == "f32"
    assert data["sizes"]["quantized_bytes"] < data["sizes"]["original_bytes"]
    assert all(t["relative_error"] is None or 0 < t["relative_error"] < 0.2 for t in data["tensors"])
    assert data["provenance"] == {}  # Jlama leaves none
    assert data["thresholds"] == {"max_ppl_ratio": None, "max_kld": None, "min_agreement": None}
    assert data["passed"] is True
    assert data["misses"] == []


def test_provenance_of_the_quantized_file(demo: Path) -> None:
    result = cg("verify", "demo", "--against", "demo", *SMALL, "--json")
    data = json.loads(result.stdout)
    with Checkpoint.open(demo) as checkpoint:
        assert data["provenance"] == checkpoint.metadata
    assert data["figures"]["mean_kld"] == {"value": 0.0, "error": 0.0}
    assert data["figures"]["ppl_ratio"] == {"value": 1.0, "error": 0.0}


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_a_missed_threshold_is_exit_code_1_and_the_figures_are_there(
    pair: tuple[object, ...], json_option: tuple[str, ...]
) -> None:
    result = cg("verify", *pair, *SMALL, "--max-ppl-ratio", "0.5", "--max-kld", "0.001", *json_option)
    assert result.exit_code == 1
    assert "error: perplexity ratio" in result.stderr
    assert re.search(r"mean KL divergence 0\.\d+ is above 0\.001", result.stderr)
    if json_option:
        data = json.loads(result.stdout)
        assert data["passed"] is False
        assert len(data["misses"]) == 2
    else:
        assert "mean KL divergence (nats)" in result.stdout


def test_kept_thresholds(pair: tuple[object, ...]) -> None:
    assert cg("verify", *pair, *SMALL, "--max-ppl-ratio", "3", "--max-kld", "5").exit_code == 0


def test_own_texts(pair: tuple[object, ...], tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("x = 1\n" * 5)
    two.write_text("y = 2\n" * 11)
    result = cg("verify", *pair, "--text", one, "--text", two, *SMALL, "--chunks", 0)
    assert result.exit_code == 0
    assert f"of 96 in chunks of 32, from {one}, {two}" in result.stderr  # 97 tokens with BOS


def test_details_holes_and_both_activations(pair: tuple[object, ...]) -> None:
    small = ("--context", "32", "--chunks", "2", "--holes", "2", "--language", "python")
    result = cg("verify", *pair, *small, "--activations", "both", "--details")
    assert result.exit_code == 0, result.stderr
    assert "python, middles" in result.stdout
    assert "KL divergence, 99.9 %" in result.stdout
    assert "Δp, minimum" in result.stdout
    assert "added by int8" in result.stdout
    assert re.search(r"^ layer 3 +\d", result.stdout, re.M)
    assert "model.layers.2.mlp.down_proj.weight" in result.stdout
    assert re.search(r"^Both write the same into \d of 2 holes \(", result.stdout, re.M)
    assert "int8 and f32 activations" in result.stderr


def test_reports_are_written(pair: tuple[object, ...], tmp_path: Path) -> None:
    page, text = tmp_path / "new" / "loss.html", tmp_path / "loss.md"
    result = cg("verify", *pair, *SMALL, "--report", page, "--report", text, "--max-kld", "9")
    assert result.exit_code == 0, result.stderr
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert "\n**passed**\n" in text.read_text("utf-8")
    assert f"wrote {page}" in result.stderr
    failed = cg("verify", *pair, *SMALL, "--report", text, "--max-kld", "0.001")
    assert failed.exit_code == 1
    assert "**mean KL divergence 0." in text.read_text("utf-8")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--max-kld", "-1"), 2, "limit of the KL divergence is -1"),
        (("--max-ppl-ratio", "nan"), 2, "limit of the perplexity ratio is nan"),
        (("--text", "/nonexistent/a.py"), 2, "cannot read /nonexistent/a.py"),
        (("--language", "cobol"), 2, "no bundled text in 'cobol'"),
        (("--holes", "1"), 2, "1 holes, expected 0 or at least 2"),
        (("--min-agreement", "2"), 2, "least agreement is 2.0"),
        (("--holes", "0", "--min-agreement", "0.5"), 2, "agreement was not measured"),
        (("--report", "loss.pdf"), 2, "loss.pdf: unknown kind of report"),
        (("--context", "4"), 2, "context of 4 tokens is too short"),
        (("--context", "9000"), 2, "take at most 8192"),
        (("--backend", "torch", "--activations", "int8"), 6, "no int8 activations"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    pair: tuple[object, ...], args: tuple[str, ...], code: int, message: str
) -> None:
    result = cg("verify", *pair, *args)
    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


def test_models_that_do_not_belong_together(golden: Path) -> None:
    result = cg("verify", golden / "gemma-mha-wide-JQ4", "--against", golden / "gemma-mqa", *SMALL)
    assert result.exit_code == 3
    assert "was not made from" in result.stderr


def test_a_model_that_is_not_here(golden: Path) -> None:
    assert cg("verify", golden / "gemma-mqa-JQ4", "--against", "no-such-model").exit_code == 5
    assert cg("verify", golden / "gemma-mqa-JQ4").exit_code == 2


def test_interrupted(pair: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from cg.quant import streaming

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(streaming, "score_tokens", interrupt)
    result = cg("verify", *pair, *SMALL)
    assert result.exit_code == 130
    assert result.stdout == ""


def figures(ln_ratio: float, error: float, kld: float = 0.1) -> Figures:
    equal = np.zeros((4, 4), np.float32)
    return replace(
        summarize(score_tokens(equal, equal, np.zeros(4, np.int32))),
        ln_ppl_ratio=Estimate(ln_ratio, error),
        ppl_ratio=Estimate(1 + ln_ratio, error),
        mean_kld=Estimate(kld, 0),
        same_top=Estimate(0.954, 0),
    )


def test_the_sentence_says_whether_the_change_means_anything() -> None:
    share = "in 95.4 % of the cases both models hold the same next token for the likeliest."
    assert verify_text.conclusion(figures(0.02, 0.003)) == (
        f"The quantized model's perplexity is 2.00 % ± 0.30 % higher; {share}"
    )
    assert "3.00 % ± 0.10 % lower; in" in verify_text.conclusion(figures(-0.03, 0.001))
    assert "lower, no more than chance explains; in" in verify_text.conclusion(figures(-0.03, 0.02))
    assert verify_text.conclusion(figures(0, 0, 0)) == "The two models give the same probabilities."
