"""``cg inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from cg import __version__
from cg.cli.main import app
from cg.quant import quantize
from cg.runtime import ops, ops_native


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def as_json(*arguments: object) -> dict[str, Any]:
    result = inspect(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_a_quantized_model(golden: Path, tmp_path: Path) -> None:
    quantize(golden / "gemma-mqa", tmp_path / "q4")
    model = as_json(tmp_path / "q4")["model"]
    assert model["model_type"] == "gemma"
    assert model["config"]["num_hidden_layers"] == 3
    assert model["config"]["kv_bytes_per_token"] == 768
    assert [(d["dtype"], d["tensors"]) for d in model["dtypes"]] == [("BF16", 7), ("Q4", 22)]
    assert model["dtypes"][1]["bits_per_weight"] == 5
    assert model["total"]["parameters"] == 1_836_800
    assert model["provenance"]["source"] == "gemma-mqa"
    assert model["provenance"]["method"] == "absmax"
    assert "tensors" not in model
    text = inspect(tmp_path / "q4").stdout
    for part in (
        "gemma: 3 layers, hidden 256",
        "provenance method: absmax",
        "cache 0.75 KiB per token",
        "5.00",
    ):
        assert part in text


def test_a_long_value_of_the_header_is_cut_for_reading(tmp_path: Path) -> None:
    sketch = "Ab0+" * 8000
    file = tmp_path / "model.safetensors"
    save_file({"w": np.zeros((2, 32), np.float32)}, file, {"cg.calibration_sketch": sketch})
    text = inspect(file).stdout
    assert "provenance calibration_sketch: Ab0+" in text
    assert "(32,000 characters)" in " ".join(text.split())
    assert len(text) < 3000
    assert as_json(file)["model"]["provenance"]["calibration_sketch"] == sketch


def test_jlamas_own_files(golden: Path) -> None:
    model = as_json(golden / "gemma-mqa-JQ4")["model"]
    assert model["provenance"] == {}
    assert {d["dtype"]: d["tensors"] for d in model["dtypes"]} == {"BF16": 8, "Q4": 21}


def test_every_tensor(golden: Path) -> None:
    tensors = as_json(golden / "gemma-mqa-JQ4", "--tensors")["model"]["tensors"]
    assert len(tensors) == 29
    by_name = {t["name"]: t for t in tensors}
    assert by_name["model.layers.0.mlp.up_proj.weight"] == {
        "name": "model.layers.0.mlp.up_proj.weight",
        "dtype": "Q4",
        "shape": [512, 256],
        "bytes": 81920,
        "bits_per_weight": 5.0,
    }
    assert "512 x 256" in inspect(golden / "gemma-mqa-JQ4", "--tensors").stdout


def test_a_single_file(golden: Path) -> None:
    model = as_json(golden / "edge" / "model.safetensors")["model"]
    assert model["config"] is None
    assert model["metadata"] == {"format": "pt"}
    assert model["total"]["tensors"] == 13


def test_the_bundled_model() -> None:
    assert as_json("demo")["model"]["model_type"] == "gemma"


def test_a_model_of_another_kind(tmp_path: Path, golden: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes((golden / "edge" / "model.safetensors").read_bytes())
    result = inspect(tmp_path)
    assert result.exit_code == 0
    assert "not a model that cg can run: config.json: model_type is 'llama'" in result.stdout


def test_this_machine() -> None:
    value = as_json()
    assert value["model"] is None
    machine = value["machine"]
    assert machine["version"] == __version__
    assert [b["name"] for b in machine["backends"]] == ["native", "torch", "numpy"]
    assert all(b["reason"] for b in machine["backends"])
    text = inspect().stdout
    assert f"* {machine['backend']}" in text
    assert text.startswith(f"cg {__version__}, Python ")


def test_active_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    if ops_native.import_problem() is None:
        monkeypatch.setenv("CG_FORCE_ISA", "portable")
        machine = as_json()["machine"]
        assert machine["isa"] == "portable"
        assert {"name": "portable", "supported": True, "failure": None} in machine["isas"]
        assert "instruction set portable" in inspect().stdout
    monkeypatch.setattr(ops_native, "import_problem", lambda: "no compiler was found")
    monkeypatch.setattr(ops_native, "supported_isas", list)
    machine = as_json()["machine"]
    assert machine["isa"] is None
    assert machine["backend"] != "native"
    assert machine["backends"][0] == {
        "name": "native",
        "available": False,
        "reason": "no compiler was found",
        "warning": None,
    }
    assert "native  no   no compiler was found" in inspect().stdout


def test_instruction_sets_that_fail_their_self_test(failing_isa: str) -> None:
    machine = as_json()["machine"]
    assert machine["isa"] == "portable"
    assert machine["isas"][1] == {"name": failing_isa, "supported": True, "failure": "rotation"}
    text = inspect().stdout
    assert "instruction set portable; this build offers portable here\n" in text
    assert f"{failing_isa} failed its self-test: rotation\n" in text


def test_reasons_are_those_of_the_library() -> None:
    reasons = {b.name: b.reason for b in ops.available_backends()}
    assert {b["name"]: b["reason"] for b in as_json()["machine"]["backends"]} == reasons


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"\xff" * 100, "announces"), (b"GGUF" * 9, "announces")],
)
def test_malformed_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    result = inspect(tmp_path / "x.safetensors")
    assert result.exit_code == 3
    assert message in result.stderr
    assert result.stdout == ""


def test_missing_model(tmp_path: Path) -> None:
    assert inspect(tmp_path / "absent").exit_code == 5
    assert inspect("no-such-model").exit_code == 5


def test_terminal_tricks_in_metadata_are_defused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x.safetensors", {"evil\x1b]0;title\x07": "\x1b[2J"})
    text = inspect(tmp_path / "x.safetensors").stdout
    assert "\x1b" not in text
    assert "\\u001b[2J" in text
