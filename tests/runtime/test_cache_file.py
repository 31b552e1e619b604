"""Cache files appear whole or not at all, whatever happens to their writers."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from cg.runtime.cache_file import keep, prune


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "c.vocabulary"
    keep(file, b"one")
    keep(file, b"two")
    assert file.read_bytes() == b"two"
    assert names(file.parent) == ["c.vocabulary"]


def test_the_file_is_as_readable_as_others(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    keep(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        keep(tmp_path / "file" / "inside", b"x")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        keep(tmp_path / "folder", b"x")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        keep(tmp_path / "file", b"x")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b""


def test_concurrent_writers_and_readers_see_whole_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    whole = {bytes([value]) * 100_000 for value in range(4)}
    seen: set[bytes] = set()

    def write(content: bytes) -> None:
        for _ in range(25):
            keep(file, content)
            seen.add(file.read_bytes())

    writers = [threading.Thread(target=write, args=(content,)) for content in whole]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert seen <= whole
    assert names(tmp_path) == ["file"]


def test_the_newest_stay(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.vocabulary" for i in range(5)]
    for age, file in enumerate(files):
        file.write_bytes(b"")
        os.utime(file, (1e9 - age, 1e9 - age))
    prune([*files, tmp_path / "gone"], tmp_path, most=2)
    assert names(tmp_path) == ["0.vocabulary", "1.vocabulary"]


def test_abandoned_partial_files_go_and_others_stay(tmp_path: Path) -> None:
    for name in (".old.partial", ".new.partial", "old"):
        (tmp_path / name).write_bytes(b"")
    for name in (".old.partial", "old"):
        os.utime(tmp_path / name, (1e9, 1e9))
    prune([], tmp_path, most=0)
    assert names(tmp_path) == [".new.partial", "old"]
