"""The benchmark runs: its smoke version, on the bundled model, against torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the benchmark needs Linux")
_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers.py"


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, _SCRIPT, *arguments],
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip


def _peers(*arguments: str | Path) -> str:
    run = _run(*arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_smoke_measures_everything_that_needs_no_peer(tmp_path: Path) -> None:
    saved = tmp_path / "samples.json"
    printed = _peers("--smoke", "--work", tmp_path / "work", "--json", saved)
    results = json.loads(saved.read_text("utf-8"))
    samples = results["samples"]
    assert {figure: sorted(samples[figure]) for figure in samples} == {
        **{figure: ["cg"] for figure in ("quantize", "start")},
        **{figure: ["cg", "cg_f16"] for figure in ("depth0", "depth")},
        **{
            figure: ["cg", "cg_f16", "torch"] for figure in ("decode", "prompt", "batch1", "batch4", "batch8")
        },
        "original": ["cg", "torch"],
    }
    assert all(s["seconds"] > 0 for engines in samples.values() for taken in engines.values() for s in taken)
    assert 0 < results["private_bytes"]["cg"] < 300e6
    for row in ("decode, empty cache", "prompt of 32", "quantize to 4 bits", "warm start"):
        assert f"\n| {row}" in printed
    assert _peers("--from", saved) == printed


def test_a_wrong_folder_is_told_before_anything_is_compiled(tmp_path: Path) -> None:
    for arguments in ((tmp_path,), ("--smoke", "--seven-b", tmp_path / "none")):
        run = _run(*arguments, "--work", tmp_path / "work")
        assert run.returncode == 2
        assert "is no checkpoint: it has no config.json" in run.stderr
        assert not (tmp_path / "work").exists()
