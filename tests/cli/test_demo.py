"""``cg demo``: the whole story, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from cg.cli.main import app


def test_the_story_is_told_and_the_model_kept(tmp_path: Path) -> None:
    out = tmp_path / "kept"
    result = CliRunner().invoke(app, ["demo", "--out", str(out), "-t", "1"])
    assert result.exit_code == 0, result.stderr
    steps = [line[:2] for line in result.stdout.splitlines() if line[:1].isdigit()]
    assert steps == ["1.", "2.", "3."]
    assert result.stdout.count("(the original ") == 3
    inspected = CliRunner().invoke(app, ["inspect", str(out), "--json"])
    assert json.loads(inspected.stdout)["model"]["total"]["bits_per_weight"] < 5.1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "precious").write_text("text")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "kept")])
    assert result.exit_code == 4
    assert (tmp_path / "kept" / "precious").read_text() == "text"
