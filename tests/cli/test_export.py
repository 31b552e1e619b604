"""``cg export`` and ``cg import``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app
from cg.quant import quantize


def cg(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def failed(result: Result, code: int, message: str, hint: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert f"error: {message}" in result.stderr
    assert f"hint: {hint}" in result.stderr


@pytest.fixture(scope="module")
def quantized(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "demo-q4"
    quantize(demo, folder)
    return folder


def test_gguf(quantized: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo.gguf"
    result = cg("export", "gguf", quantized, out)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second, third = result.stdout.splitlines()
    assert first == "13 tensors F32, 43 tensors Q4_0"
    assert second == "nothing was lost: all scales are exact"
    assert third.startswith(f"{out}  3.2 MB (")
    failed(cg("export", "gguf", quantized, out), 4, f"{out} exists already", "--overwrite replaces it")
    report = json.loads(cg("export", "gguf", quantized, out, "--overwrite", "--json").stdout)
    assert report.pop("seconds") >= 0
    assert report == {
        "output": str(out),
        "bytes": out.stat().st_size,
        "types": {"F32": 13, "Q4_0": 43},
        "rounding": {"numbers": 174080, "changed": 0, "vanished": 0, "largest_relative_change": 0.0},
        "rounded": {},
        "notes": [],
    }
    assert cg("export", "gguf", "nobody", out).exit_code == 5
