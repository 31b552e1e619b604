"""``cg download`` as a user runs it, against a local Hub."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app
from cg.runtime.hub import hf_cache, registry


def _load_hub_server() -> ModuleType:
    if "hub_server" in sys.modules:
        return sys.modules["hub_server"]
    path = Path(__file__).parents[1] / "runtime" / "hub" / "hub_server.py"
    spec = importlib.util.spec_from_file_location("hub_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


hub_server = _load_hub_server()


@pytest.fixture
def hub(isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from huggingface_hub import close_session, constants

    # Read by huggingface_hub when it is imported, so the environment comes too late.
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(isolated_home / "huggingface" / "token"))
    with hub_server.serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        close_session()


def add_model(hub: Any, repo_id: str, **settings: Any) -> Any:
    return hub.add(repo_id, hub_server.Repo(hub_server.model_files(), **settings))


def cg(*args: str) -> Result:
    return CliRunner().invoke(app, args)


def cg_process(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cg.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_path_on_stdout_and_what_next_on_stderr(hub: Any) -> None:
    repo = add_model(hub, "google/codegemma-2b")
    result = cg_process("download", "codegemma-2b")
    assert result.returncode == 0
    folder = hf_cache.snapshot_folder("google/codegemma-2b", repo.commit)
    assert result.stdout == f"{folder}\n"
    assert result.stderr == "codegemma-2b is here: f16, 1.0 MB\nnext: cg quantize codegemma-2b\n"
    assert cg("-q", "download", "codegemma-2b").stderr == ""


def test_quantized_model_has_another_next_step(hub: Any, golden: Path) -> None:
    files = {f.name: f.read_bytes() for f in (golden / "gemma-mqa-JQ4").iterdir() if f.suffix != ".npz"}
    hub.add("tjake/codegemma-2b-JQ4", hub_server.Repo(files))
    assert "next: cg complete -m codegemma-2b-jq4" in cg("download", "tjake/codegemma-2b-JQ4").stderr


def test_json(hub: Any) -> None:
    repo = add_model(hub, "o/m", refs=("main", "v1"))
    data = json.loads(cg("download", "o/m", "--revision", "v1", "--json").stdout)
    assert data == {
        "name": "o/m@v1",
        "type": "f16",
        "revision": repo.commit,
        "size_bytes": sum(len(content) for content in repo.files.values()),
        "path": str(registry.resolve("o/m@v1")),
    }


def test_gated_model_tells_the_way(hub: Any) -> None:
    add_model(hub, "google/codegemma-7b-it", gated=True)
    result = cg("download", "codegemma-7b-it")
    assert (result.exit_code, result.stdout) == (5, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: google/codegemma-7b-it is gated")
    assert hint.startswith(f"hint: accept the licence at {hub.url}/google/codegemma-7b-it, then log in with")
    assert cg("download", "codegemma-7b-it", "--token", hub_server.GOOD_TOKEN).exit_code == 0


@pytest.mark.parametrize("place", ["option", "environment", "login"])
def test_no_output_ever_holds_the_token(
    hub: Any, place: str, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(hub, "o/m")
    for token in ("hf_secretsecretsecret", "hf_secret\tsecrét"):
        option = ["--token", token] if place == "option" else []
        if place == "environment":
            monkeypatch.setenv("HF_TOKEN", token)
        if place == "login":
            (isolated_home / "huggingface").mkdir(exist_ok=True)
            (isolated_home / "huggingface" / "token").write_text(token, encoding="utf-8")
        result = cg("-v", "download", "o/m", *option)
        assert result.exit_code == 5
        assert result.stderr.startswith("error: ")
        assert "secr" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nosuch"], 5, "neither an alias nor a Hub id"),
        (["nobody/nothing"], 5, "has no model nobody/nothing"),
        (["o/m", "--revision", "v9"], 5, "no revision 'v9'"),
        (["o/m", "--revision", "../.."], 2, "not a branch, tag or commit"),
        ([], 2, "Missing argument"),
    ],
)
def test_refusals(hub: Any, args: list[str], code: int, message: str) -> None:
    add_model(hub, "o/m")
    result = cg("download", *args)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_no_network() -> None:
    result = cg("download", "codegemma-2b")  # HF_ENDPOINT is a port where nobody listens
    assert result.exit_code == 5
    assert result.stderr.startswith("error: 127.0.0.1:9 refuses the connection\nhint: ")


def _partial_bytes() -> int:
    """Of the largest file that is being downloaded. Other files come and go meanwhile."""
    try:
        return max((part.stat().st_size for part in hf_cache.hub_cache().rglob("*.incomplete")), default=0)
    except FileNotFoundError:
        return 0


def test_interrupted_by_the_user_and_resumed(hub: Any) -> None:
    add_model(hub, "o/m")
    hub.faults.append(hub_server.Fault("o/m/model.safetensors", "hang", after=600_000))
    command = [sys.executable, "-m", "cg.cli", "download", "o/m"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while _partial_bytes() <= 500_000:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    hub.release.set()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "interrupted" in err
    assert "Traceback" not in err
    (model,) = registry.list_models(incomplete=True)[1:]
    assert (model.name, model.kind) == ("o/m", "incomplete")
    assert model.size > 500_000
    assert cg("download", "o/m").exit_code == 0
    assert hub.gets("model.safetensors", "store")[-1].headers["range"].startswith("bytes=")


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals there")
def test_bars_on_a_terminal(hub: Any) -> None:
    import pty

    repo = hub.add("o/m", hub_server.Repo(hub_server.model_files(rows=40_000)))
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "cg.cli", "download", "o/m"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, text=True, env=environment)
    os.close(end)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
    os.close(terminal)
    out, _ = process.communicate(timeout=30)
    assert out.strip() == str(hf_cache.snapshot_folder("o/m", repo.commit))
    text = shown.decode()
    assert "model.safetensors (MB)" in text
    assert "MB/s" in text
    assert "/20" in text  # of 20 MB


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    result = cg("download", "--help")
    assert "cg download codegemma-2b\n" in result.stdout
    assert "HF_TOKEN" in result.stdout
    code = (
        "import sys; from typer.testing import CliRunner; from cg.cli.main import app\n"
        "CliRunner().invoke(app, ['download', '--help'])\n"
        "print([m for m in ('numpy', 'huggingface_hub', 'httpx2', 'torch') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
