"""Readings of this process's memory."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from cg.runtime import process_memory
from cg.runtime.process_memory import Memory, MemoryWatch, read_memory

MB = 1 << 20


def reading() -> Memory:
    memory = read_memory()
    assert memory is not None
    return memory


def test_memory_of_our_own_counts() -> None:
    before = reading()
    block = np.ones(64 * MB, np.uint8)
    assert reading().bytes - before.bytes >= 60 * MB
    assert block.sum() == 64 * MB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells private memory apart")
def test_a_mapped_file_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 * MB))
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        before = reading()
        assert before.kind == "private"
        assert np.frombuffer(mapped, np.uint8).sum() == 0  # every page has been touched
        assert reading().bytes - before.bytes < 16 * MB


def test_the_watch_sees_what_is_gone_afterwards() -> None:
    before = reading()
    with MemoryWatch(interval=0.001) as watch:
        for _ in range(20):
            np.ones(64 * MB, np.uint8).sum()
    assert watch.peak is not None
    assert watch.peak.bytes - before.bytes >= 48 * MB


def test_the_watch_keeps_the_highest_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([Memory(5, "private"), Memory(9, "private"), None, Memory(7, "private")])
    monkeypatch.setattr(process_memory, "read_memory", lambda: next(readings))
    watch = MemoryWatch()
    assert watch.peak is None
    for _ in range(4):
        watch.sample()
    assert watch.peak == Memory(9, "private")


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("freebsd", 1024)])
def test_elsewhere_the_resident_peak_is_told_as_such(
    platform: str, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(process_memory, "_STATUS", tmp_path / "absent")
    monkeypatch.setattr(sys, "platform", platform)
    usage = resource.struct_rusage([0.0, 0.0, 1234] + [0] * 13)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    assert read_memory() == Memory(1234 * unit, "resident")


def test_a_system_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "_STATUS", tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert read_memory() is None
    with MemoryWatch() as watch:
        pass
    assert watch.peak is None
