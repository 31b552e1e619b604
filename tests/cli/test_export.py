"""``cg export`` and ``cg import``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app
from cg.quant import QuantizeOptions, quantize


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


def test_what_is_rounded_is_told(demo: Path, tmp_path: Path) -> None:
    quantize(demo, tmp_path / "i8", QuantizeOptions("i8"))
    second = cg("export", "gguf", tmp_path / "i8", tmp_path / "i8.gguf").stdout.splitlines()[1]
    assert second.startswith(
        "172,988 of 174,080 scales in 43 tensors were rounded, by a factor of 1 ± 0.0004"
    )
    report = json.loads(cg("export", "gguf", tmp_path / "i8", tmp_path / "json.gguf", "--json").stdout)
    assert report["rounding"]["changed"] == 172_988
    assert len(report["rounded"]) == 43


def test_safetensors(quantized: Path, tmp_path: Path) -> None:
    out = tmp_path / "f16"
    result = cg("export", "safetensors", quantized, out, "--dtype", "f16")
    assert (result.exit_code, result.stderr) == (0, "")
    first, second, third = result.stdout.splitlines()
    assert first == "56 tensors F16"
    assert second == "nothing was lost: all weights are exact"
    assert third.startswith(f"{out}  11.2 MB (")
    failed(cg("export", "safetensors", quantized, out), 4, f"{out} exists already", "--overwrite replaces it")
    again = cg("export", "safetensors", quantized, out, "--overwrite", "--shard-size", 0.004, "--json")
    report = json.loads(again.stdout)
    assert report["types"] == {"BF16": 56}
    assert report["rounding"]["changed"] > 0
    assert (out / "model.safetensors.index.json").is_file()


def test_compressed_tensors(quantized: Path, tmp_path: Path) -> None:
    out = tmp_path / "w4a16"
    result = cg("export", "compressed-tensors", quantized, out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:2] == [
        "13 tensors BF16, 1 tensors F16, 42 tensors int4 packed, scales F16",
        "nothing was lost: all scales and weights are exact",
    ]
    report = json.loads(cg("export", "compressed-tensors", quantized, out, "--overwrite", "--json").stdout)
    assert report["output"] == str(out)
    failed(
        cg("export", "compressed-tensors", "demo", tmp_path / "x"),
        2,
        "",
        "cg quantize makes a Q4 model; cg export",
    )


def test_import_gguf_runs(quantized: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "demo.gguf", tmp_path / "back"
    assert cg("export", "gguf", quantized, file).exit_code == 0
    result = cg("import", "gguf", file, out)
    assert (result.exit_code, result.stderr) == (0, f"next: cg complete -m {out}\n")
    assert result.stdout.splitlines()[:2] == ["13 tensors BF16, 43 tensors Q4", "nothing was lost"]
    prompt = ("--prefix", "def add(a, b):\n    return", "--max-tokens", 8)
    completed = cg("complete", "-m", out, *prompt)
    assert completed.exit_code == 0
    assert completed.stdout == cg("complete", "-m", quantized, *prompt).stdout
    verified = cg("verify", out, "--against", quantized, "--chunks", 1, "--activations", "f32", "--json")
    assert json.loads(verified.stdout)["figures"]["mean_kld"]["value"] == pytest.approx(0, abs=1e-9)
    report = json.loads(cg("import", "gguf", file, out, "--overwrite", "--json").stdout)
    assert report["types"] == {"BF16": 13, "Q4": 43}


def test_malformed_gguf(quantized: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "demo.gguf", tmp_path / "back"
    assert cg("export", "gguf", quantized, file).exit_code == 0
    whole = file.read_bytes()
    for content in (
        b"",
        b"GGUF",
        whole[:1000],
        whole[:-1],
        b"\0" * 64,
        whole[:4] + b"\xff" * 64,
        b"PK" + whole[2:],
    ):
        file.write_bytes(content)
        result = cg("import", "gguf", file, out)
        assert result.exit_code == 3, result.output
        assert result.stderr.startswith(f"error: {file}")
        assert not out.exists()
    assert cg("import", "gguf", tmp_path / "nothing.gguf", out).exit_code == 3


@pytest.mark.parametrize("command", ["export gguf demo", "import gguf x.gguf"])
def test_a_missing_package_is_named(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    result = cg(*command.split(), tmp_path / "out")
    failed(result, 2, "this needs the package gguf", "pip install 'codegemma-cg[gguf]'")
