"""Mapped files into the page cache, completely, before anything is computed.

Pages are faulted in through the mapping, so that they stay shared and backed by the file. ``MADV_WILLNEED``
would not do: it reads no more than the device's read-ahead size at a call, and into small pages, whatever the
mapping says about huge ones.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cg.runtime.errors import CheckpointError
from cg.runtime.tensor import Bytes

__all__ = ["MappedFile", "PreloadProgress", "populate", "preload"]

PreloadProgress = Callable[[int, int], None]
"""Called with the bytes that are in memory, and those that will be."""

_CHUNK = 64 << 20
"""Bytes of a preload between two calls of its progress, and between two chances to interrupt it."""
_HUGE_PAGE = 2 << 20
_SAMPLES = 16
_MADV_POPULATE_READ = 22  # Linux 5.14; Python's mmap has no name for it
_SMAPS = Path("/proc/self/smaps")


@dataclass(frozen=True, slots=True, eq=False)
class MappedFile:
    """A file and its read-only mapping."""

    path: Path
    map: mmap.mmap
    whole: Bytes
    """All of it; holding this keeps the mapping from being closed."""

    def ranges(self, step: int) -> Iterator[tuple[int, int]]:
        """Start and length of consecutive pieces of ``step`` bytes; the last one may be shorter."""
        for start in range(0, self.whole.nbytes, step):
            yield start, min(step, self.whole.nbytes - start)


def preload(files: Sequence[MappedFile], progress: PreloadProgress | None = None) -> None:
    """Read files into the page cache and map all of their pages, into huge ones where the system has them.

    A file that lies in the cache in small pages is dropped from it and read once more, where that brings huge
    pages: not if another process has it mapped, or if it has not been written to the disk yet.

    Raises:
        CheckpointError: the file cannot be read, or was shortened.
    """
    done, total = 0, sum(file.whole.nbytes for file in files)
    for file in files:
        with _reading(file):
            again = _gains_huge_pages(file)
        for start, length in file.ranges(_CHUNK):
            with _reading(file):
                if again:
                    _drop(file, [(start, length)])
                populate(file, start, length)
            # In a virtual machine, memory that only the disk has written to is still slow at first.
            _touch(file, start, length)
            done += length
            if progress is not None:
                progress(done, total)


@contextmanager
def _reading(file: MappedFile) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise CheckpointError(f"{file.path} cannot be read: {e.strerror or e}") from None


def populate(file: MappedFile, start: int, length: int) -> None:
    """Map pages, reading those that are missing; other threads run meanwhile.

    Raises:
        OSError: they cannot be read.
    """
    if sys.platform == "linux":
        try:
            file.map.madvise(_MADV_POPULATE_READ, start, length)
        except OSError as e:
            if e.errno != errno.EINVAL:  # that is an older kernel
                raise
        else:
            return
    _touch(file, start, length)


def _touch(file: MappedFile, start: int, length: int) -> None:
    file.whole[start : start + length : mmap.PAGESIZE].max()


def _gains_huge_pages(file: MappedFile) -> bool:
    """Do samples of the file lie in small pages, and most of them in huge ones after they were read again?"""
    pages = file.whole.nbytes // _HUGE_PAGE
    samples = [
        (page * _HUGE_PAGE, _HUGE_PAGE) for page in sorted({pages * i // _SAMPLES for i in range(_SAMPLES)})
    ]
    if not pages or not hasattr(os, "posix_fadvise"):
        return False
    most = len(samples) * _HUGE_PAGE * 3 // 4
    for sample in samples:
        populate(file, *sample)
    before = _huge_bytes(file.whole)
    if before is None or before >= most:
        return False
    _drop(file, samples)
    for sample in samples:
        populate(file, *sample)
    return (_huge_bytes(file.whole) or 0) >= most


def _drop(file: MappedFile, ranges: Sequence[tuple[int, int]]) -> None:
    """Unmap ranges and drop them from the page cache, as far as they are clean and nobody else maps them."""
    with suppress(OSError), file.path.open("rb") as opened:
        for start, length in ranges:
            file.map.madvise(mmap.MADV_DONTNEED, start, length)
            os.posix_fadvise(opened.fileno(), start, length, os.POSIX_FADV_DONTNEED)


def _huge_bytes(whole: Bytes) -> int | None:
    """Bytes of the mapping that are in huge pages, or None where the system does not tell."""
    address, inside = whole.ctypes.data, False
    try:
        lines = _SMAPS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        first, *others = line.split()
        if not first.endswith(":"):
            start, _, end = first.partition("-")
            inside = int(start, 16) <= address < int(end, 16)
        elif inside and first == "FilePmdMapped:":
            return int(others[0]) * 1024
    return None
