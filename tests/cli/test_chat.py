"""``cg chat``, with a pipe and with a terminal."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli.main import app

OPTIONS = ["chat", "-m", "demo", "-t", "1", "--temperature", "0", "--max-tokens", "6"]


def chat(*lines: str) -> Result:
    return CliRunner().invoke(app, OPTIONS, input="".join(f"{line}\n" for line in lines))


def test_a_base_model_warns_and_answers() -> None:
    result = chat("hello")
    assert result.exit_code == 0
    assert "is a base model" in result.stderr
    assert result.stdout.endswith("\n")


def test_history_matters_and_reset_forgets_it(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    result = chat("import os", "x = 1", "/reset", "import os", f"/save {file}", "/quit", "never reached")
    assert result.exit_code == 0
    messages = json.loads(file.read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "import os"
    assert "Saved 2 messages" in result.stderr


def test_save_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text("precious")
    result = chat(f"/save {file}")
    assert result.exit_code == 4
    assert file.read_text() == "precious"


def test_unknown_commands_are_told() -> None:
    result = chat("/what")
    assert result.exit_code == 2
    assert "unknown command /what" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    import pty

    master, slave = pty.openpty()
    # The slow backend, whose answer takes seconds: it must not be complete before the signal arrives.
    command = [sys.executable, "-m", "cg.cli", *OPTIONS[:-2], "--max-tokens", "900", "--backend", "numpy"]
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = b""

    def read() -> bytes:
        assert select.select([master], [], [], 60)[0], seen
        return os.read(master, 4096)

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += read()
        seen = seen[seen.index(text) + len(text) :]

    try:
        read_until(b"> ")
        os.write(master, b"import os\n")
        read_until(b"import os\r\n")
        while len(seen) < 4:  # the answer has begun
            seen += read()
        child.send_signal(signal.SIGINT)
        read_until(b"(stopped)")
        read_until(b"> ")
        os.write(master, b"/quit\n")
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        os.close(master)
