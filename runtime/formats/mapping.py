"""Memory-mapped files: how they are opened, and how a part that is done with leaves memory."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path

from cg.runtime.errors import CheckpointError, TruncatedFileError

__all__ = ["map_file", "release_pages"]


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file for reading.

    Raises:
        CheckpointError: it is missing, not a file, or cannot be read.
        TruncatedFileError: it is empty.
    """
    try:
        if not path.is_file():  # a pipe would block
            raise CheckpointError(f"{path} is missing or not a file")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:  # mmap refuses empty files
        raise TruncatedFileError(f"{path}: the file is empty", hint="download or copy it again") from None
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror or e}") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # What is not in the page cache yet is read into huge pages where the file system has them, and stays
        # there for every later process: decoding then spends no time on page tables. It is also the advice to
        # read ahead that works: the system reads in steps of megabytes, even where it has no huge pages.
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped


def release_pages(mapped: mmap.mmap, start: int, stop: int) -> None:
    """Tell the system that bytes ``start:stop`` of a mapping are not needed soon.

    Keeps the resident size low while streaming; a hint only, they can be read again at any time.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):  # Windows trims working sets by itself
        return
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        mapped.madvise(mmap.MADV_DONTNEED, first, length)
