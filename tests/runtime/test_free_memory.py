"""What the system says is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from cg.runtime import free_memory
from cg.runtime.free_memory import available_memory


def test_what_linux_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       24000000 kB\nMemFree:         1000 kB\nMemAvailable:      12345 kB\n")
    monkeypatch.setattr(free_memory, "_MEMINFO", file)
    assert available_memory() == 12345 * 1024
    file.write_text("MemTotal:       24000000 kB\n")  # kernels before 3.14
    assert available_memory() is None


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "absent")
    assert available_memory() is None
