"""Files of a cache: written whole or not at all, by several processes at once, and bounded in number."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["keep", "prune"]

_PARTIAL = ".partial"
_ABANDONED = 3600.0  # seconds after which a partial file belongs to nobody


def keep(file: Path, content: bytes) -> None:
    """Write a file, replacing it in one step; folders are made. The last of several writers wins.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{os.urandom(8).hex()}{_PARTIAL}")
    try:
        with partial.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def prune(files: Iterable[Path], folder: Path, *, most: int) -> None:
    """Remove all but the ``most`` newest of ``files``, and what killed writers left in ``folder``."""
    ages: list[tuple[float, Path]] = []
    for file in files:
        with suppress(OSError):  # somebody else removes it too
            ages.append((file.stat().st_mtime, file))
    gone = [file for _, file in sorted(ages, reverse=True)[most:]]
    for partial in folder.glob(f".*{_PARTIAL}"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                gone.append(partial)
    for file in gone:
        with suppress(OSError):  # in use on Windows: the next one tries again
            file.unlink()
