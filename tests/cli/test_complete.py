"""``cg complete`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app
from cg.runtime import ops_native

PREFIX = "def add(a, b):\n    return "
SUFFIX = "\n\n\nprint(add(1, 2))\n"


def cg(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["complete", "-m", "demo", "-t", "1", *args], input=stdin)


def test_only_the_completion_goes_to_stdout() -> None:
    result = cg("--prefix", PREFIX, "--suffix", SUFFIX, "--max-tokens", "8")
    assert result.exit_code == 0
    assert result.stderr == ""
    data = json.loads(cg("--prefix", PREFIX, "--suffix", SUFFIX, "--max-tokens", "8", "--json").stdout)
    (completion,) = data["completions"]
    assert completion["text"] == result.stdout
    assert completion["stop_reason"] in ("stop_token", "length")
    assert completion["timings"]["generated_tokens"] >= len(completion["token_ids"])


def test_all_ways_to_say_where_the_cursor_is_agree(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(PREFIX + SUFFIX)
    (tmp_path / "p").write_text(PREFIX)
    limit = ("--max-tokens", "6")
    texts = cg("--prefix", PREFIX, "--suffix", SUFFIX, "--path", "a.py", *limit)
    files = cg("--prefix", f"@{tmp_path / 'p'}", "--suffix", SUFFIX, "--path", "a.py", *limit)
    place = cg("--file", str(file), "--line", "2", "--column", "12", "--path", "a.py", *limit)
    marker = cg("--path", "a.py", *limit, stdin=f"{PREFIX}<CURSOR>{SUFFIX}")
    assert texts.exit_code == 0
    assert texts.stdout == files.stdout == place.stdout == marker.stdout


def test_alternatives_are_reproducible_and_differ() -> None:
    args = (
        "--prefix",
        PREFIX,
        "-n",
        "3",
        "--temperature",
        "1.5",
        "--seed",
        "4",
        "--max-tokens",
        "8",
        "--json",
    )
    first = json.loads(cg(*args).stdout)["completions"]
    second = json.loads(cg(*args).stdout)["completions"]
    assert [c["text"] for c in first] == [c["text"] for c in second]
    assert len({c["text"] for c in first}) > 1


def test_what_is_cut_is_told_on_stderr(tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    file.write_text("x = 1\n" * 5000)
    result = cg("--prefix", f"@{file}", "--suffix", "", "--max-tokens", "2")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: ")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--prefix", "x", "--file", "a.py"), 2, "exclude each other"),
        (("--file", "a.py"), 2, "needs --line and --column"),
        (("--line", "1"), 2, "need --file"),
        (("--file", "/nonexistent/a.py", "--line", "1", "--column", "1"), 2, "cannot read"),
        (("--prefix", "@/nonexistent/a.py"), 2, "cannot read"),
        (("--prefix", "x", "-n", "2"), 2, "same text 2 times"),
        (("--prefix", "x", "--temperature", "-1"), 2, "temperature is -1"),
        (("--prefix", "x", "--max-tokens", "1024"), 2, "no room for a prompt"),
        (("--prefix", "x", "--context-length", "99999"), 2, "takes 1 to 1024"),
        (("--prefix", "x", "--stop", ""), 2, "stop string is empty"),
        (("--prefix", "x", "--backend", "torch", "--activations", "int8"), 6, "no int8 activations"),
        (("--prefix", "x", "-m", "no-such-model"), 5, "no-such-model"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(args: tuple[str, ...], code: int, message: str) -> None:
    result = cg(*args)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_no_marker_on_standard_input() -> None:
    result = cg(stdin="no marker")
    assert result.exit_code == 2
    assert "hint: put <CURSOR>" in result.stderr


def test_without_a_model() -> None:
    result = CliRunner().invoke(app, ["complete", "--prefix", "x"])
    assert result.exit_code == 2
    assert "no model was named" in result.stderr


def test_the_settings_file_supplies_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("CG_CONFIG", str(file))
    file.write_text('model = "demo"\nthreads = 1\n')
    assert CliRunner().invoke(app, ["complete", "--prefix", "x", "--max-tokens", "1"]).exit_code == 0
    monkeypatch.setenv("CG_MODEL", "from-the-environment")
    assert "from-the-environment" in CliRunner().invoke(app, ["complete", "--prefix", "x"]).stderr
    for text, message in (
        ("modle = 1", "unknown key"),
        ("threads = 'x'", "expected int"),
        ("=", "config.toml"),
    ):
        file.write_text(text)
        result = CliRunner().invoke(app, ["complete", "--prefix", "x"])
        assert result.exit_code == 2
        assert message in result.stderr


def test_why_the_start_takes_longer_is_told_to_those_who_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CG_HOME", str(tmp_path / "file"))
    result = cg("--prefix", "x", "--max-tokens", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    result = cg("--prefix", "x", "--max-tokens", "1", "--verbose")
    assert result.exit_code == 0
    assert "the compact form of tokenizer.json cannot be kept here" in result.stderr


def test_doing_without_the_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_native, "_problem", "compiled kernels are missing")
    result = cg("--prefix", "x", "--max-tokens", "1")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: compiled kernels are missing; computing with torch")
    assert cg("--prefix", "x", "--max-tokens", "1", "--backend", "numpy").stderr == ""


def test_kernels_that_fail_their_self_test_are_told(failing_isa: str) -> None:
    warning = f"warning: {failing_isa} failed its self-test (rotation); computing with portable\n"
    for backend in ("auto", "native"):
        result = cg("--prefix", "x", "--max-tokens", "1", "--backend", backend)
        assert (result.exit_code, result.stderr) == (0, warning)
    assert cg("--prefix", "x", "--max-tokens", "1", "--backend", "numpy").stderr == ""


def test_an_override_that_names_them_is_refused(failing_isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CG_FORCE_ISA", failing_isa)
    result = cg("--prefix", "x", "--max-tokens", "1")
    assert (result.exit_code, result.stdout) == (6, "")
    assert f"error: CG_FORCE_ISA={failing_isa}: {failing_isa} failed its self-test" in result.stderr
    assert "hint: use one of portable\n" in result.stderr
