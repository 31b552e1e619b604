"""Files of a cache: written whole or not at all, by several processes at once, and bounded in number."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["keep", "prune", "replacing"]

_PARTIAL = ".partial"
_ABANDONED = 3600.0  # seconds after which a partial file belongs to nobody


def keep(file: Path, content: bytes) -> None:
    """Write a file, replacing it in one step; folders are made. The last of several writers wins.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    with replacing(file) as partial, partial.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to, that takes its place when all went well; folders are made.

    The caller forces what it wrote to the disk, and closes it.

    Raises:
        OSError: a folder cannot be made, or the file not be replaced; nothing is left behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{os.urandom(8).hex()}{_PARTIAL}")
    try:
        yield partial
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
