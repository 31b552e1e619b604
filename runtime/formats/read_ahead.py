"""Reading what a model file lacks in the page cache, in the background, while the program starts."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

from cg.runtime.formats.preload import MappedFile, populate
from cg.runtime.tensor import Bytes

__all__ = ["ReadAhead"]

_PIECE = 8 << 20
"""Bytes that are read at once; a piece whose first page is in the cache counts as there."""


class ReadAhead:
    """Reads missing pieces of files on a thread of its own, from front to back.

    Only on Linux, and only where the system tells what is in the cache: it does so for files that the user
    owns or may write. A file that is all there starts no thread: faulting in mapped pages competes with the
    imports and allocations of a start for the process's map of its memory.
    """

    def __init__(self, files: Sequence[MappedFile]) -> None:
        self._stopped = False
        self._missing = [
            (file, start, length)
            for file in files
            for start, length in file.ranges(_PIECE)
            if not _is_resident(file.whole, start)
        ]
        self.thread: threading.Thread | None = None
        """What reads, or None if there is nothing to read."""
        if self._missing:
            self.thread = threading.Thread(target=self._read, name="cg-read-ahead", daemon=True)
            self.thread.start()

    def stop(self) -> None:
        """Begin no further piece."""
        self._stopped = True

    def _read(self) -> None:
        with suppress(OSError):  # what cannot be read is the computation's to find out
            while self._missing and not self._stopped:
                file, start, length = self._missing.pop(0)
                populate(file, start, length)
        self._missing.clear()  # lets go of the mappings


@cache
def _mincore() -> Callable[[int, int, ctypes.Array[ctypes.c_char]], int] | None:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).mincore
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    return function


def _is_resident(whole: Bytes, start: int) -> bool:
    """Is the page at ``start`` in the page cache? True where the system does not tell."""
    mincore = _mincore()
    state = ctypes.create_string_buffer(1)
    if mincore is None or mincore(whole.ctypes.data + start, 1, state) != 0:
        return True
    return bool(state.raw[0] & 1)
