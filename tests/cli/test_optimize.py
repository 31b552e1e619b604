"""``cg optimize``, and what other commands say about it."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app
from cg.quant import quantize
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.hub import registry


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


@pytest.fixture
def model(quantized: Path) -> Path:
    """A local model called ``demo-q4``."""
    return Path(shutil.copytree(quantized, registry.models_folder() / "demo-q4"))


@pytest.fixture
def stale(model: Path) -> str:
    """The warning about a model that is not any more what it was when it was optimized."""
    assert cg("optimize", model).exit_code == 0
    os.utime(model / "model.safetensors", (0, 0))
    return f"the optimized scales of {model} belong to other weights; run cg optimize again"


def side_files() -> list[Path]:
    folder = registry.home() / "optimized"
    return list(folder.iterdir()) if folder.is_dir() else []


def test_text(model: Path) -> None:
    result = cg("optimize", "demo-q4")
    assert (result.exit_code, result.stderr) == (0, "")
    (file,) = side_files()
    first, second = result.stdout.splitlines()
    assert first == "f16 scales for 43 of 43 Q4 tensors: 5.01 -> 4.51 bits per weight"
    assert second.startswith(f"{file}  353.")
    again = cg("optimize", "demo-q4").stdout.splitlines()
    assert again[:2] == ["already optimized; --overwrite does it again", first]
    assert cg("optimize", "demo-q4", "--overwrite").stdout.splitlines()[0] == first


def test_tensors_that_are_left(model: Path) -> None:
    file = model / "model.safetensors"
    with SafetensorsFile(file) as opened:
        scales = next(e for e in opened.header.entries if e.name == "model.layers.3.mlp.up_proj.weight.qb")
    with file.open("r+b") as stream:
        stream.seek(scales.end - 4)
        stream.write(struct.pack("<f", 0.1))
    first, second, _ = cg("optimize", model).stdout.splitlines()
    assert first.startswith("f16 scales for 42 of 43 Q4 tensors: ")
    name, count = scales.name.removesuffix(".qb"), f"{(scales.end - scales.begin) // 4:,}"
    assert second == f"left as it is: {name}: f16 does not hold 1 of its {count} scales"
    again = cg("optimize", model).stdout
    assert f"left as it is: {name}: f16 does not hold all of its scales" in again
    assert json.loads(cg("optimize", model, "--json").stdout)["left"][0]["name"] == name


def test_json(model: Path) -> None:
    result = json.loads(cg("optimize", model, "--json").stdout)
    (file,) = side_files()
    seconds = result.pop("seconds")
    assert seconds >= 0
    assert result == {
        "folder": str(model),
        "file": str(file),
        "written": True,
        "converted": 43,
        "left": [],
        "bytes": file.stat().st_size,
        "bits_per_weight_before": pytest.approx(5.0066, abs=1e-4),
        "bits_per_weight": pytest.approx(4.5069, abs=1e-4),
    }
    assert json.loads(cg("optimize", model, "--json").stdout)["written"] is False


def test_remove(model: Path) -> None:
    cg("optimize", model)
    (file,) = side_files()
    result = cg("optimize", model, "--remove")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"removed {file}\n")
    assert side_files() == []
    assert cg("optimize", model, "--remove").stderr == "there was nothing to remove\n"
    assert json.loads(cg("optimize", model, "--remove", "--json").stdout)["removed"] is None


def test_errors(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed(cg("optimize", "demo"), 2, "", "cg quantize makes a Q4 model")
    assert cg("optimize", "nobody").exit_code == 5
    both = cg("optimize", model, "--remove", "--overwrite")
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CG_HOME", str(tmp_path / "file"))
    unwritable = cg("optimize", model)
    assert unwritable.exit_code == 4
    assert "cannot be written" in unwritable.stderr
    assert "Traceback" not in unwritable.output


def test_inspect_tells(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not optimized; cg optimize can make generating faster\n" in cg("inspect", model).stdout
    assert json.loads(cg("inspect", model, "--json").stdout)["model"]["optimized"]["state"] == "none"
    cg("optimize", model)
    (file,) = side_files()
    assert "optimized: f16 scales for 43 of 43 Q4 tensors, 348.2 kB\n" in cg("inspect", model).stdout
    assert json.loads(cg("inspect", model, "--json").stdout)["model"]["optimized"] == {
        "state": "fits",
        "file": str(file),
        "tensors": 43,
        "bytes": 348_160,
        "warning": None,
    }
    monkeypatch.setenv("CG_OPTIMIZED", "0")
    assert "optimized scales are switched off by CG_OPTIMIZED=0\n" in cg("inspect", model).stdout
    assert "ptimized" not in cg("inspect", "demo").stdout  # nothing in it could be


def test_inspect_tells_what_does_not_fit(model: Path, stale: str) -> None:
    assert f"{stale}\n" in cg("inspect", model).stdout


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_completing_warns(model: Path, stale: str, quiet: tuple[str, ...]) -> None:
    arguments = ("complete", "-m", model, "--prefix", "def f", "--max-tokens", 2)
    result = cg(*quiet, *arguments)
    assert result.exit_code == 0
    assert result.stderr.count(f"warning: {stale}\n") == 1
    assert "warning" not in cg(*arguments, "--backend", "numpy").stderr


def test_bench_names_what_was_measured(model: Path) -> None:
    arguments = ("bench", model, "-p", 4, "-n", 4, "-r", 1)
    plain = json.loads(cg(*arguments, "--json").stdout)
    cg("optimize", model)
    shown = cg(*arguments)
    assert "f16 scales for 43 tensors" in shown.stdout
    small = json.loads(shown.stdout.splitlines()[-1])
    assert (plain["optimized_tensors"], small["optimized_tensors"]) == (0, 43)
    saved = plain["size"] - small["size"]
    assert saved == 348_160
    # Of the embedding one row more than the whole table is read: it is the output head too.
    read = [report["results"][1]["bytes_per_token"] for report in (plain, small)]
    assert read[0] - read[1] == saved + 16
    csv = cg(*arguments, "-o", "csv").stdout.splitlines()
    assert dict(zip(csv[0].split(","), csv[1].split(","), strict=True))["optimized_tensors"] == "43"
    on_numpy = json.loads(cg(*arguments, "--json", "--backend", "numpy").stdout)
    assert (on_numpy["optimized_tensors"], on_numpy["size"]) == (0, plain["size"])


def test_bench_warns(model: Path, stale: str) -> None:
    result = cg("bench", model, "-p", 4, "-n", 4, "-r", 1, "--json")
    assert f"warning: {stale}\n" in result.stderr
    assert json.loads(result.stdout)["optimized_tensors"] == 0


def test_removing_a_model_removes_its_scales(model: Path) -> None:
    cg("optimize", model)
    size = sum(f.stat().st_size for f in (*model.iterdir(), *side_files()))
    assert registry.remove("demo-q4") == size
    assert side_files() == []


def test_a_link_goes_without_what_it_leads_to(quantized: Path) -> None:
    link = registry.models_folder() / "linked-q4"
    link.parent.mkdir(parents=True)
    link.symlink_to(quantized, target_is_directory=True)
    cg("optimize", "linked-q4")
    assert registry.remove("linked-q4") == 0
    assert len(side_files()) == 1
