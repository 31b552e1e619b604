"""Reading ahead: what is missing is read in the background, and what is there already is left alone."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from cg.runtime.formats import checkpoint as checkpoint_module
from cg.runtime.formats import read_ahead
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.preload import MappedFile, populate
from cg.runtime.formats.read_ahead import ReadAhead
from cg.runtime.formats.safetensors import SafetensorsFile

PIECE = 256 << 10


@pytest.fixture
def file(golden: Path, monkeypatch: pytest.MonkeyPatch) -> MappedFile:
    """A model of a megabyte, in several pieces."""
    monkeypatch.setattr(read_ahead, "_PIECE", PIECE)
    return SafetensorsFile(golden / "gemma-mqa-JQ4" / "model.safetensors").mapped


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Start and length of what was read; the second page of the file passes for one that is in the cache."""
    pieces: list[tuple[int, int]] = []

    def record(file: MappedFile, start: int, length: int) -> None:
        pieces.append((start, length))
        populate(file, start, length)

    monkeypatch.setattr(read_ahead, "_is_resident", lambda _, start: start == PIECE)
    monkeypatch.setattr(read_ahead, "populate", record)
    return pieces


def finish(reader: ReadAhead) -> None:
    assert reader.thread is not None
    reader.thread.join(60)
    assert not reader.thread.is_alive()
    assert not reader._missing  # nothing keeps the mapping


def test_what_is_missing_is_read_in_the_background(file: MappedFile, reads: list[tuple[int, int]]) -> None:
    finish(ReadAhead([file]))
    assert len(reads) > 2
    assert reads == [piece for piece in file.ranges(PIECE) if piece[0] != PIECE]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's answer on the page cache")
def test_what_is_in_memory_starts_no_thread(file: MappedFile) -> None:
    file.whole.max()
    assert ReadAhead([file]).thread is None


def test_where_the_system_does_not_tell_nothing_is_read(
    file: MappedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_mincore", lambda: None)
    assert ReadAhead([file]).thread is None


def test_it_stops_when_told(file: MappedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = threading.Event(), threading.Event()
    pieces: list[int] = []

    def wait(_: MappedFile, start: int, length: int) -> None:
        pieces.append(start)
        began.set()
        go_on.wait(60)

    monkeypatch.setattr(read_ahead, "_is_resident", lambda *_: False)
    monkeypatch.setattr(read_ahead, "populate", wait)
    reader = ReadAhead([file])
    began.wait(60)
    reader.stop()
    go_on.set()
    finish(reader)
    assert pieces == [0]


def test_errors_are_left_to_the_computation(file: MappedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(read_ahead, "_is_resident", lambda *_: False)
    monkeypatch.setattr(read_ahead, "populate", fail)
    finish(ReadAhead([file]))  # an exception that escaped would be a warning, and so an error


def test_closing_a_checkpoint_ends_it(golden: Path, reads: list[tuple[int, int]]) -> None:
    checkpoint = Checkpoint.open(golden / "gemma-mqa-JQ4")
    checkpoint.read_ahead()
    reader = checkpoint._read_ahead
    assert reader is not None
    checkpoint.close()
    assert reader._stopped


def test_what_memory_cannot_hold_is_not_read(
    golden: Path, reads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "available_memory", lambda: 1000)
    with Checkpoint.open(golden / "gemma-mqa-JQ4") as checkpoint:
        checkpoint.read_ahead()
        assert checkpoint._read_ahead is None
    assert reads == []
