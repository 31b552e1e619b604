"""``--preload`` on the commands that run a model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner, Result

from cg.cli import output
from cg.cli.loading import preload_bar
from cg.cli.main import app
from cg.runtime.formats import checkpoint as checkpoint_module
from cg.runtime.formats.checkpoint import Checkpoint

COMPLETE = ("complete", "-m", "demo", "-t", "1", "--prefix", "def f(x):\n", "--max-tokens", "4")
CHAT = ("chat", "-m", "demo", "-t", "1", "--max-tokens", "2")
BENCH = ("bench", "demo", "-p", "4", "-n", "0", "-r", "1", "--json")


def cg(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, args, input=stdin)


@pytest.fixture
def preloads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were preloaded."""
    folders: list[Path] = []
    preload = Checkpoint.preload

    def record(self: Checkpoint, progress: Any = None) -> None:
        folders.append(self.folder)
        preload(self, progress)

    monkeypatch.setattr(Checkpoint, "preload", record)
    return folders


def test_what_is_printed_stays_the_same(demo: Path, preloads: list[Path]) -> None:
    plain, preloaded = cg(*COMPLETE), cg(*COMPLETE, "--preload")
    assert preloaded.exit_code == 0
    assert (preloaded.stdout, preloaded.stderr) == (plain.stdout, "")
    data = json.loads(cg(*COMPLETE, "--preload", "--json").stdout)
    assert data["completions"][0]["text"] == plain.stdout
    assert preloads == [demo, demo]


def test_chat_and_bench_preload(demo: Path, preloads: list[Path]) -> None:
    chat = cg(*CHAT, "--preload", "--quiet", stdin="hello\n")
    assert chat.exit_code == 0, chat.stderr
    bench = cg(*BENCH, "--preload")
    assert json.loads(bench.stdout)["results"][0]["test"] == "pp4"
    assert bench.stderr == ""
    assert preloads == [demo, demo]


def test_environment_and_settings_ask_for_it_and_the_option_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: Path, preloads: list[Path]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("preload = true\n")
    monkeypatch.setenv("CG_CONFIG", str(file))
    assert cg(*COMPLETE).exit_code == cg(*BENCH).exit_code == 0
    assert preloads == [demo, demo]
    assert cg(*COMPLETE, "--no-preload").exit_code == 0
    monkeypatch.setenv("CG_PRELOAD", "0")
    assert cg(*COMPLETE).exit_code == 0
    assert preloads == [demo, demo]
    file.write_text("")
    monkeypatch.setenv("CG_PRELOAD", "1")
    assert cg(*COMPLETE).exit_code == 0
    assert preloads == [demo, demo, demo]
    file.write_text("preload = 1\n")
    wrong = cg(*COMPLETE)
    assert wrong.exit_code == 2
    assert "preload is 1, expected bool" in wrong.stderr


@pytest.mark.parametrize("command", [COMPLETE, CHAT, BENCH])
def test_too_little_memory_is_told(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "available_memory", lambda: 1000)
    result = cg(*command, "--preload", stdin="hello\n")
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert "preloading takes 0.01 GB of memory, 0.00 GB are available" in result.stderr
    assert "hint: without preloading it runs as well" in result.stderr
    assert result.stdout == ""
    assert cg(*command, stdin="hello\n").exit_code == 0


def test_the_bar_shows_megabytes_and_goes_when_it_is_full() -> None:
    with Progress(console=Console(file=io.StringIO(), force_terminal=True), auto_refresh=False) as bars:
        show = preload_bar(bars)
        (task,) = bars.tasks
        assert not task.visible
        show(64_000_000, 1_566_000_000)
        assert (task.completed, task.total, task.visible) == (64, 1566, True)
        show(1_566_000_000, 1_566_000_000)
        assert (task.completed, task.visible) == (1566, False)


def test_a_terminal_gets_the_bar_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(output, "_console", lambda *, stderr: Console(file=shown, force_terminal=True))
    result = cg(*COMPLETE, "--preload")
    assert result.exit_code == 0
    assert result.stdout == cg(*COMPLETE).stdout
    assert shown.getvalue()
