"""One writer at a time for an output: a lock file that a killed process cannot leave locked."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["FileLock"]


class FileLock:
    """An exclusive lock on a file, which is made for it and removed afterwards.

    The system gives the lock up when its process ends, however it ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Take the lock; False if another process has it.

        Raises:
            OSError: the file cannot be made, or the file system has no locks.
        """
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _lock(descriptor):
                    return False
                # The last holder may have removed the file between open and lock: then this lock is nobody's.
                if _is_same(descriptor, self._path):
                    self._descriptor, descriptor = descriptor, -1
                    return True
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def release(self) -> None:
        """Remove the file and give the lock up; nothing happens if it is not held."""
        if self._descriptor < 0:
            return
        if sys.platform != "win32":  # while it is locked, so that nobody else's file is removed
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1
        if sys.platform == "win32":  # an open file cannot be removed there
            with suppress(OSError):
                self._path.unlink()


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
