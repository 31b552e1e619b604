"""Preloading: every page ends up in memory, shared, and in a huge one if reading it again brings that."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from cg.runtime.errors import CheckpointError, UsageError
from cg.runtime.formats import checkpoint as checkpoint_module
from cg.runtime.formats import preload as preload_module
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.preload import MappedFile, preload

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's report on the pages of a mapping")
KILOBYTES = 300  # of the file of most tests: several pieces, the last of them short


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload_module, "_CHUNK", 128 << 10)


def map_file(path: Path) -> MappedFile:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return MappedFile(path, mapped, np.frombuffer(mapped, np.uint8))


@pytest.fixture
def file(tmp_path: Path) -> MappedFile:
    path = tmp_path / "weights"
    with path.open("wb") as out:
        out.write(os.urandom(KILOBYTES << 10))
        os.fsync(out.fileno())
        if sys.platform == "linux":  # as after a restart, where the file system can forget
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return map_file(path)


def in_memory(file: MappedFile) -> dict[str, int]:
    """What the system says of the mapping, in kilobytes."""
    figures: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *others = line.split()
        if not first.endswith(":"):
            inside = others[-1] == str(file.path)
        elif inside and others[-1] == "kB":
            figures[first.rstrip(":")] = int(others[0])
    return figures


@linux
def test_a_preload_maps_every_page_and_none_of_them_is_private(file: MappedFile) -> None:
    preload([file])
    pages = in_memory(file)
    assert pages["Rss"] == pages["Size"] == KILOBYTES
    assert pages["Anonymous"] == pages["Private_Dirty"] == 0


@linux
def test_an_older_kernel_gets_its_pages_touched(file: MappedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload_module, "_MADV_POPULATE_READ", 9999)
    preload([file])
    assert in_memory(file)["Rss"] == KILOBYTES


def test_other_systems_get_their_pages_touched(file: MappedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(preload_module, "_touch", lambda _, start, length: touched.append((start, length)))
    preload_module.populate(file, 4096, 8192)
    assert touched == [(4096, 8192)]


def test_progress_ends_at_the_bytes_of_all_files(file: MappedFile, tmp_path: Path) -> None:
    (tmp_path / "second").write_bytes(b"x" * 5000)
    calls: list[tuple[int, int]] = []
    preload([file, map_file(tmp_path / "second")], lambda done, total: calls.append((done, total)))
    total = (KILOBYTES << 10) + 5000
    assert calls == [(n, total) for n in (128 << 10, 256 << 10, KILOBYTES << 10, total)]


def test_a_preload_can_be_interrupted(file: MappedFile) -> None:
    calls: list[int] = []

    def interrupt(done: int, total: int) -> None:
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preload([file], interrupt)
    assert calls == [128 << 10]


@linux
def test_a_file_that_cannot_be_read_is_told(file: MappedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(file.path, 4096)
    monkeypatch.setattr(
        preload_module, "_touch", lambda *_: pytest.fail("reading there would kill the process")
    )
    if not populates():
        pytest.skip("this kernel cannot populate pages")
    with pytest.raises(CheckpointError, match="weights cannot be read"):
        preload([file])


def populates() -> bool:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        try:
            page.madvise(preload_module._MADV_POPULATE_READ)
        except OSError as e:
            return e.errno != errno.EINVAL
    return True


@linux
def test_small_pages_are_dropped_and_read_again(file: MappedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of tests are too small for huge pages: pages of a few kilobytes stand for them."""
    page = 16 << 10
    monkeypatch.setattr(preload_module, "_HUGE_PAGE", page)
    before = bytes(file.whole)
    dropped: list[tuple[int, int]] = []
    drop = preload_module._drop

    def record(file: MappedFile, ranges: list[tuple[int, int]]) -> None:
        dropped.extend(ranges)
        drop(file, ranges)

    monkeypatch.setattr(preload_module, "_drop", record)
    samples = [(number * page, page) for number in sorted({18 * i // 16 for i in range(16)})]
    for answers, ranges in (
        ([0, 12 * page], [*samples, *file.ranges(128 << 10)]),  # reading again helps
        ([0, 11 * page], samples),  # not enough
        ([12 * page], []),  # most are huge already
        ([None], []),  # the system does not tell
    ):
        reports = iter(answers)
        monkeypatch.setattr(preload_module, "_huge_bytes", lambda _, reports=reports: next(reports))
        dropped.clear()
        preload([file])
        assert dropped == ranges
        assert in_memory(file)["Rss"] == KILOBYTES
    assert bytes(file.whole) == before


@linux
def test_huge_pages_are_those_of_the_mapping(
    file: MappedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert preload_module._huge_bytes(file.whole) == 0
    at = file.whole.ctypes.data
    report = tmp_path / "smaps"
    report.write_text(
        f"{at - 4096:x}-{at:x} r--p 0 fd:00 1 /other\nFilePmdMapped: 4 kB\n"
        f"{at:x}-{at + 4096:x} r--s 0 fd:00 1 /a file: x\nRss: 8 kB\nFilePmdMapped: 2048 kB\nVmFlags: rd\n"
        f"{at + 4096:x}-{at + 8192:x} r--s 0 fd:00 1 /other\nFilePmdMapped: 6 kB\n"
    )
    monkeypatch.setattr(preload_module, "_SMAPS", report)
    assert preload_module._huge_bytes(file.whole) == 2 << 20
    report.unlink()
    assert preload_module._huge_bytes(file.whole) is None


def test_a_checkpoint_preloads_all_of_its_files(golden: Path) -> None:
    calls: list[tuple[int, int]] = []
    with Checkpoint.open(golden / "gemma-mqa-JQ4") as checkpoint:
        checkpoint.preload(lambda done, total: calls.append((done, total)))
        assert calls[-1] == (checkpoint.nbytes, checkpoint.nbytes)
        assert checkpoint.nbytes == sum(path.stat().st_size for path in checkpoint.files)


def test_what_memory_cannot_hold_is_not_preloaded(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "available_memory", lambda: 1000)
    with (
        Checkpoint.open(golden / "gemma-mqa-JQ4") as checkpoint,
        pytest.raises(UsageError, match=r"preloading takes 0\.00 GB of memory, 0\.00 GB are"),
    ):
        checkpoint.preload()
