"""``cg quantize``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from cg.cli.main import app
from cg.runtime.dtypes import DType
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.hub import registry


def quantize(*arguments: object) -> Result:
    plain = () if "--method" in arguments else ("--method", "absmax")
    return CliRunner().invoke(app, ["quantize", *map(str, arguments), *plain])


def failed(result: Result, code: int, message: str, hint: str = "") -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert f"error: {message}" in result.stderr
    assert hint in result.stderr


def test_default_output_is_a_local_model(golden: Path) -> None:
    result = quantize(golden / "gemma-mqa")
    assert result.exit_code == 0, result.output
    folder = registry.models_folder() / "gemma-mqa-q4"
    assert registry.resolve("gemma-mqa-q4") == folder
    assert "next: cg complete -m gemma-mqa-q4" in result.stderr
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.tensors["model.embed_tokens.weight"].dtype is DType.Q4


def test_summary_goes_to_standard_output(golden: Path, tmp_path: Path) -> None:
    result = quantize(golden / "gemma-mqa", tmp_path / "out")
    lines = result.stdout.splitlines()
    row = next(
        line.split() for line in lines if line.strip().startswith("model.layers.*.mlp.down_proj.weight")
    )
    assert row == ["model.layers.*.mlp.down_proj.weight", "3", "BF16", "Q4", "245.8", "kB", "0.0858", "21.3"]
    assert any("1,836,800 parameters: 3.7 MB at 16.00 bits per weight -> 1.2 MB at 5.01" in s for s in lines)
    assert any(str(tmp_path / "out") in line for line in lines)
    assert "model.layers.1" not in result.stdout


def test_every_tensor_on_demand(golden: Path, tmp_path: Path) -> None:
    result = quantize(golden / "gemma-mqa", tmp_path / "out", "--tensors")
    assert "model.layers.1.mlp.down_proj.weight" in result.stdout


def test_json(golden: Path, tmp_path: Path) -> None:
    result = quantize(
        golden / "gemma-mqa", tmp_path / "out", "--type", "i8", "--keep", "embed", "--keep", "q_", "--json"
    )
    report = json.loads(result.stdout)
    assert report["folder"] == str(tmp_path / "out")
    by_name = {t["name"]: t for t in report["tensors"]}
    assert by_name["model.embed_tokens.weight"]["dtype"] == "BF16"
    assert by_name["model.layers.0.self_attn.q_proj.weight"]["relative_error"] is None
    up = by_name["model.layers.0.mlp.up_proj.weight"]
    assert (up["dtype"], up["bits_per_weight"]) == ("I8", 9)
    assert up["snr_db"] > 40


@pytest.mark.parametrize(
    ("options", "name"), [(["--type", "i8"], "gemma-mqa-i8"), (["--jlama-runnable"], "gemma-mqa-q4-jlama")]
)
def test_default_names_tell_variants_apart(golden: Path, options: list[str], name: str) -> None:
    result = quantize(golden / "gemma-mqa", *options)
    assert result.exit_code == 0, result.output
    assert (registry.models_folder() / name / "config.json").is_file()


def test_source_in_the_hubs_cache(golden: Path, isolated_home: Path) -> None:
    commit = "c" * 40
    repo = isolated_home / "huggingface" / "hub" / "models--google--codegemma-2b"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(golden / "gemma-mqa", repo / "snapshots" / commit)
    for source in ("codegemma-2b", "google/codegemma-2b"):
        result = quantize(source, "--overwrite", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["folder"] == str(registry.models_folder() / "codegemma-2b-q4")
    card = (registry.models_folder() / "codegemma-2b-q4" / "README.md").read_text()
    assert f"google/codegemma-2b at revision `{commit}`" in card


def test_existing_output(golden: Path, tmp_path: Path) -> None:
    assert quantize(golden / "gemma-mqa", tmp_path / "out").exit_code == 0
    failed(
        quantize(golden / "gemma-mqa", tmp_path / "out"), 4, str(tmp_path), "hint: --overwrite replaces it"
    )
    assert quantize(golden / "gemma-mqa", tmp_path / "out", "--overwrite").exit_code == 0


def test_model_that_is_not_here() -> None:
    failed(quantize("codegemma-7b"), 5, "codegemma-7b is not on this machine", "cg download codegemma-7b")


def test_quantized_source(golden: Path, tmp_path: Path) -> None:
    result = quantize(golden / "gemma-mqa-JQ4", tmp_path / "out")
    failed(result, 2, f"{golden / 'gemma-mqa-JQ4'} is quantized already", "quantize the original")


def test_nonfinite(golden: Path, tmp_path: Path) -> None:
    shutil.copy(golden / "edge" / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    out = tmp_path.parent / f"{tmp_path.name}-out"
    failed(quantize(tmp_path, out), 3, "tensor f.nonfinite.weight", "--allow-nonfinite")
    assert not out.exists()
    assert quantize(tmp_path, out, "--allow-nonfinite").exit_code == 0


def test_unknown_type(golden: Path, tmp_path: Path) -> None:
    result = quantize(golden / "gemma-mqa", tmp_path / "out", "--type", "q5")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_quiet_says_nothing_on_standard_error(golden: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["--quiet", "quantize", str(golden / "gemma-mqa"), str(tmp_path / "out")]
    )
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "bits per weight" in result.stdout


def test_notes_are_told(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "gemma-mqa", tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, "eos_token_id": [1, 107]}))
    result = quantize(tmp_path / "source", tmp_path / "out", "--jlama-runnable")
    assert "note: config.json: eos_token_id is 1 for Jlama, was [1, 107]" in result.stderr


def interrupt(arguments: list[object], when: Callable[[int], bool]) -> str:
    """Run the command until ``when``, asked with its process id, and press Ctrl-C; what it says then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cg.cli", "quantize", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not when(process.pid) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "interrupted" in stderr
    return stderr


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_ctrl_c_cleans_up(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "models" / "out"
    source.mkdir()
    (source / "config.json").write_text("{}")
    tensors = {f"w{i}": np.ones((2048, 2048), np.float16) for i in range(40)}
    save_file(tensors, source / "model.safetensors")
    interrupt(
        [source, out, "--method", "absmax", "--threads", 1],
        lambda pid: (out.parent / f".out.partial-{pid}" / "model.safetensors").exists(),
    )
    assert list(out.parent.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_ctrl_c_keeps_what_took_long(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stderr = interrupt(
        [demo, out, "--calibration-tokens", 2048],
        lambda _: any(tmp_path.glob(".out.work-*/layer-1-*.safetensors")),
    )
    (work,) = tmp_path.iterdir()
    assert f"what is done is kept in {work}" in stderr.replace("\n", " ")
    again = quantize(demo, out, "--method", "gptq", "--calibration-tokens", 2048)
    assert again.exit_code == 0, again.output
    assert "going on where an earlier run" in again.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_encoder_that_fails_its_self_test_is_told(failing_isa: str, golden: Path, tmp_path: Path) -> None:
    result = quantize(golden / "gemma-mqa", tmp_path / "q4")
    assert result.exit_code == 0
    assert f"warning: {failing_isa} failed its self-test (rotation); computing with portable" in result.stderr


def test_the_default_loses_less_and_keeps_scales_in_f16(demo: Path, tmp_path: Path) -> None:
    """The default method, as nobody names one; few tokens, to be quick."""
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["quantize", str(demo), str(out), "--calibration-tokens", "512", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bits_per_weight"] == pytest.approx(5.01, abs=0.01)
    with Checkpoint.open(out) as checkpoint:
        assert checkpoint.metadata["cg.method"] == "gptq"
        assert checkpoint.metadata["cg.scales"] == "f16"
        assert checkpoint.metadata["cg.calibration_tokens"] == "512"


@pytest.mark.parametrize("options", [("--type", "i8"), ("--allow-nonfinite",)])
def test_where_the_default_is_jlamas_own(options: tuple[str, ...], demo: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["quantize", str(demo), str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.metadata["cg.method"] == "absmax"
        assert checkpoint.metadata["cg.scales"] == "f32"


def test_a_budget_of_bits(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = quantize(demo, out, "--bits", 5.5, "--method", "absmax", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert 5.3 < report["bits_per_weight"] < 5.5
    assert {group["dtype"] for group in report["losses"]} == {"Q4", "I8"}
    failed(quantize(demo, tmp_path / "no", "--bits", 4), 2, "4 bits per weight", "q4 takes 5 and i8 takes 9")


def test_options_that_contradict_each_other(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    failed(
        quantize(demo, out, "--method", "jlama", "--scales", "f16"),
        2,
        "absmax has the scales",
        "--method gptq",
    )
    failed(quantize(demo, out, "--method", "gptq", "--calibrate", tmp_path / "no.py"), 2, "cannot read")
    failed(quantize(demo, out, "--method", "gptq", "--calibration-tokens", 0), 2, "0 tokens to calibrate on")
    assert not out.exists()
