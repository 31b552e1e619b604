"""``cg compare`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app

SMALL = ("--context", "32", "--chunks", "2", "--threads", "1")


def cg(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture
def models(golden: Path) -> tuple[object, ...]:
    return golden / "gemma-mqa-JQ4", golden / "gemma-mqa-JQ4-embed", "--against", golden / "gemma-mqa"


def test_a_row_per_model_and_reports(models: tuple[object, ...], tmp_path: Path) -> None:
    plot, page = tmp_path / "c.svg", tmp_path / "c.md"
    result = cg("compare", *models, *SMALL, "--holes", "2", "--report", plot, "--report", page)
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if "gemma-mqa" in line]
    assert [row[0] for row in rows] == ["gemma-mqa-JQ4", "gemma-mqa-JQ4-embed"]
    assert "same text" in result.stdout
    assert result.stderr.startswith("30 tokens scored, from bundled held-out python; ")
    assert plot.read_text("utf-8").startswith("<svg")
    assert page.read_text("utf-8").startswith("# 2 models beside gemma-mqa\n")


def test_json(models: tuple[object, ...], golden: Path) -> None:
    result = cg("-q", "compare", *models, *SMALL, "--holes", "0", "--json")
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert data["original"] == str(golden / "gemma-mqa")
    first, second = data["models"]
    assert first["name"] == "gemma-mqa-JQ4"
    assert second["bits_per_weight"] < first["bits_per_weight"] < 16
    assert first["run"]["overall"]["mean_kld"]["value"] < second["run"]["overall"]["mean_kld"]["value"]
    assert first["run"]["agreement"] is None


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--report", "c.png"), 2, "c.png: unknown kind of report"),
        (("--language", "cobol"), 2, "no bundled text in 'cobol'"),
        (("--activations", "both"), 2, "'both' is not one of"),
        (("--context", "4"), 2, "context of 4 tokens is too short"),
    ],
)
def test_mistakes(models: tuple[object, ...], args: tuple[str, ...], code: int, message: str) -> None:
    result = cg("compare", *models, *SMALL, *args)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


def test_a_model_of_another_shape_is_named(golden: Path) -> None:
    result = cg("compare", golden / "gemma-mha-wide", "--against", golden / "gemma-mqa", *SMALL)
    assert result.exit_code == 3
    assert "gemma-mha-wide was not made from" in result.stderr
