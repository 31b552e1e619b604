"""The promises on memory, on a checkpoint with CodeGemma 2b's shapes and two of its layers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's memory figures"),
]
TOOLS = Path(__file__).parent.parent / "tools"
MB = 1 << 20


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scale") / "2b-shaped"
    command = [sys.executable, str(TOOLS / "make_checkpoint.py"), str(out), "--size", "2b", "--layers", "2"]
    subprocess.run(command, check=True)
    return out


@pytest.fixture(scope="module")
def quantized(original: Path) -> tuple[Path, dict[str, int]]:
    out = original.parent / "2b-shaped-q4"
    _, peak = cg("quantize", str(original), str(out), "--method", "absmax", "--json")
    return out, peak


def cg(*arguments: str) -> tuple[str, dict[str, int]]:
    """Run the command; its output and the peaks of its memory in bytes."""
    child = subprocess.Popen([sys.executable, "-m", "cg.cli", *arguments], stdout=subprocess.PIPE, text=True)
    peak = {"RssAnon": 0, "VmRSS": 0}

    def watch() -> None:
        while child.poll() is None:
            try:
                status = Path(f"/proc/{child.pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            for line in status.splitlines():
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]) * 1024)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = child.communicate()
    watcher.join()
    assert child.returncode == 0
    return output, peak


def test_quantizing_stays_within_a_gigabyte(quantized: tuple[Path, dict[str, int]]) -> None:
    folder, peak = quantized
    assert peak["RssAnon"] <= 1000 * MB
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(5.0 / 8 * 744e6, rel=0.01)


def test_completing_stays_within_300_mb_and_the_cache(quantized: tuple[Path, dict[str, int]]) -> None:
    folder, _ = quantized
    output, peak = cg(
        "complete", "-m", str(folder), "--prefix", "x = 1\n" * 300, "--max-tokens", "4", "--json"
    )
    assert json.loads(output)["completions"][0]["token_ids"]
    assert peak["RssAnon"] <= 300 * MB + 8192 * 2 * 1024


def test_verifying_stays_within_4_gb(original: Path, quantized: tuple[Path, dict[str, int]]) -> None:
    output, peak = cg("verify", str(quantized[0]), "--against", str(original), "--chunks", "2", "--json")
    figures = json.loads(output)
    assert figures
    assert peak["VmRSS"] <= 4000 * MB


def test_the_original_runs_as_it_is(original: Path) -> None:
    output, peak = cg("complete", "-m", str(original), "--prefix", "x = 1", "--max-tokens", "2", "--json")
    assert json.loads(output)["completions"][0]["token_ids"]
    assert peak["RssAnon"] <= 300 * MB


def test_bridges_stay_within_300_mb(quantized: tuple[Path, dict[str, int]]) -> None:
    folder = quantized[0]
    file, back = folder.parent / "2b-shaped.gguf", folder.parent / "2b-shaped-back"
    for arguments in (
        ("export", "gguf", str(folder), str(file)),
        ("import", "gguf", str(file), str(back)),
        ("export", "safetensors", str(folder), str(folder.parent / "2b-shaped-bf16")),
        ("export", "compressed-tensors", str(folder), str(folder.parent / "2b-shaped-w4a16")),
    ):
        _, peak = cg(*arguments)
        assert peak["RssAnon"] <= 300 * MB, arguments
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, back)]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-5)  # but for what the metadata say
