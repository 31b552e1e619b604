"""``cg models`` as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app
from cg.cli.output import format_size
from cg.runtime.hub import hf_cache, registry


def cg(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["models", *args], input=stdin)


@pytest.fixture
def quantized(golden: Path) -> Path:
    """A local model called ``mine-q4``."""
    folder = registry.models_folder() / "mine-q4"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((golden / "gemma-mqa-JQ4" / name).read_bytes())
    return folder


def test_table(quantized: Path) -> None:
    result = cg()
    assert result.exit_code == 0
    assert result.stderr == ""
    header, _, *rows = (line.split() for line in result.stdout.splitlines() if line.strip())
    assert header == ["name", "kind", "type", "size", "origin"]
    assert [row[:3] for row in rows] == [["demo", "original", "bf16"], ["mine-q4", "quantized", "q4"]]
    verbose = CliRunner().invoke(app, ["-v", "models"])
    assert verbose.stdout == result.stdout
    assert f"mine-q4: {quantized}" in verbose.stderr


def test_json(quantized: Path) -> None:
    demo, mine = json.loads(cg("--json").stdout)
    assert demo["name"] == "demo"
    assert mine == {
        "name": "mine-q4",
        "kind": "quantized",
        "type": "q4",
        "size_bytes": sum(f.stat().st_size for f in quantized.iterdir()),
        "origin": "local",
        "repo_id": None,
        "path": str(quantized),
    }


def test_unfinished_download_is_shown_as_such() -> None:
    blobs = hf_cache.repo_folder("google/codegemma-7b") / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x.incomplete").write_bytes(bytes(2_500_000))
    assert re.search(r"^ *codegemma-7b +incomplete +\? +2.5 MB +hub *$", cg().stdout, re.MULTILINE)


def test_rm(quantized: Path) -> None:
    result = cg("rm", "mine-q4", "--yes")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.startswith("removed mine-q4, ")
    assert not quantized.exists()


def test_rm_without_a_terminal_needs_yes(quantized: Path) -> None:
    result = cg("rm", "mine-q4")
    assert result.exit_code == 2
    assert "hint: add --yes" in result.stderr
    assert quantized.is_dir()


@pytest.mark.parametrize(("answer", "is_gone"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_rm_asks(quantized: Path, monkeypatch: pytest.MonkeyPatch, answer: str, is_gone: bool) -> None:
    monkeypatch.setattr("cg.cli.commands.models._is_interactive", lambda: True)
    size = format_size(registry.find("mine-q4").size)
    result = cg("rm", "mine-q4", stdin=answer)
    assert result.exit_code == 0
    assert f"Remove mine-q4 ({size}, {quantized})?" in result.stderr
    assert result.stdout == ""
    assert quantized.exists() != is_gone


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("demo", 2, "bundled model"),
        ("mine-q5", 5, "did you mean mine-q4?"),
        ("../mine-q4", 2, "is a path"),
        ("codegemma-2b", 5, "no model 'codegemma-2b' on this machine"),
    ],
)
def test_rm_refuses(quantized: Path, name: str, code: int, message: str) -> None:
    result = cg("rm", name, "--yes")
    assert result.exit_code == code
    assert message in result.stderr
    assert quantized.is_dir()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (5_011_000_000, "5.0 GB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text
