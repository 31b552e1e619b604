"""An output that appears complete or not at all: a folder here, a file in :mod:`cg.quant.staged_file`.

Everything is written to ``.NAME.partial-PID`` beside the output and renamed at the end. A killed run
leaves that behind; the next run to the same output removes it. ``.NAME.lock`` is held meanwhile.
"""

from __future__ import annotations

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from cg.quant.folder_swap import exchange, sync_folder
from cg.quant.lock import FileLock
from cg.runtime.errors import DiskFullError, OutputError, OutputExistsError, UsageError

__all__ = ["Staged", "StagedFolder", "check_apart", "output_errors", "output_exists"]

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Staged(ABC):
    """A context manager: write to :attr:`path`, then :meth:`commit`; without a commit nothing remains.

    Raises:
        OutputExistsError: the target is there and may not be replaced.
        OutputError: the target cannot be made, or another process is making it.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target = target.resolve()
        self.path = self._sibling(f"partial-{os.getpid()}")
        self.notes: list[str] = []
        """What was found and done about leftovers of killed runs."""
        self._overwrite = overwrite
        self._lock = FileLock(self._sibling("lock"))
        self._committed = False

    def check_space(self, needed: int) -> None:
        """Refuse to begin what cannot be finished; ``needed`` in bytes."""
        free = shutil.disk_usage(self.target.parent).free
        if needed > free:
            raise DiskFullError(
                f"{self.target} needs {needed:,} bytes, {self.target.parent} has {free:,} free",
                hint="free some room or choose another place for the output",
            )

    def commit(self) -> None:
        """Give the output its name, replacing an old one if allowed; files in it are on the disk already."""
        self._publish()
        self._committed = True
        sync_folder(self.target.parent)

    def __enter__(self) -> Self:
        with output_errors(self.target):
            self._check_target()
            self.target.parent.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire():
                raise OutputError(f"another process is writing {self.target}", hint="wait until it is done")
            try:
                self._clear_leftovers()
                self._check_target()
                self._begin()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._committed:
                self._discard()
        finally:
            self._lock.release()

    def _siblings(self, suffix: str) -> list[Path]:
        """What lies beside the output under one of our names."""
        beginning = self._sibling(suffix).name
        return sorted(p for p in self.target.parent.iterdir() if p.name.startswith(beginning))

    def _sibling(self, suffix: str) -> Path:
        return self.target.with_name(f".{self.target.name}.{suffix}")

    @abstractmethod
    def _check_target(self) -> None:
        """Refuse what may not be replaced."""

    @abstractmethod
    def _begin(self) -> None:
        """Make :attr:`path`, where that is for us to do."""

    @abstractmethod
    def _publish(self) -> None:
        """Rename :attr:`path` to :attr:`target`."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove what was written."""

    @abstractmethod
    def _clear_leftovers(self) -> None:
        """Nobody else holds the lock, so whatever carries our names was left by a run that died."""


class StagedFolder(Staged):
    """A folder; an empty one may be in its place, and is filled."""

    def _check_target(self) -> None:
        target = self.target
        if not target.exists():
            return
        if not target.is_dir():
            raise OutputExistsError(f"{target} is a file, not a folder", hint="choose another output")
        contents = list(target.iterdir())
        if not contents:
            return
        if not self._overwrite:
            raise output_exists(target)
        names = {p.name for p in contents}
        is_model = "config.json" in names and any(n.endswith(".safetensors") for n in names)
        if not is_model or any(p.is_dir() for p in contents):
            raise OutputExistsError(
                f"{target} does not look like a model folder, it is not replaced", hint="remove it yourself"
            )

    def _begin(self) -> None:
        self.path.mkdir()

    def _publish(self) -> None:
        sync_folder(self.path)
        if self.target.is_dir() and not any(self.target.iterdir()):
            self.target.rmdir()
        if self.target.exists() and self._overwrite:
            self._replace()
        else:
            try:
                self.path.rename(self.target)
            except OSError as e:
                if e.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise output_exists(self.target) from None
                raise

    def _replace(self) -> None:
        old = self._sibling(f"old-{os.getpid()}")
        if exchange(self.path, self.target):
            old = self.path
        else:  # two steps; recovered by the next run if the process dies between them
            self.target.rename(old)
            try:
                self.path.rename(self.target)
            except BaseException:
                old.rename(self.target)
                raise
        shutil.rmtree(old, ignore_errors=True)

    def _discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _clear_leftovers(self) -> None:
        for folder in self._siblings("old-"):
            if self.target.exists():
                shutil.rmtree(folder)
            else:
                folder.rename(self.target)
                self.notes.append(f"restored {self.target}, which a killed run had set aside")
        for folder in self._siblings("partial-"):
            shutil.rmtree(folder)
            self.notes.append(f"removed {folder.name}, left behind by a killed run")

    def _siblings(self, suffix: str) -> list[Path]:
        return [p for p in super()._siblings(suffix) if p.is_dir() and not p.is_symlink()]


def check_apart(source: Path, out: Path) -> None:
    """Neither may contain the other: replacing the output must never touch the source.

    Raises:
        UsageError: one does.
    """
    a, b = source.resolve(), out.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise UsageError(
            f"the output {out} and the source {source} lie in each other", hint="choose another output"
        )


@contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn the system's errors while writing into ours."""
    try:
        yield
    except OSError as e:
        reason = e.strerror or str(e)
        if e.errno in _FULL:
            raise DiskFullError(
                f"the disk ran full while writing {target}",
                hint="free some room; no part of the output was left behind",
            ) from e
        hint = "the file system cannot hold a file of this size" if e.errno == errno.EFBIG else None
        where = f" ({e.filename})" if e.filename else ""
        raise OutputError(f"{target} cannot be written: {reason}{where}", hint=hint) from e


def output_exists(target: Path) -> OutputExistsError:
    """The error about an output that is there and may not be replaced."""
    return OutputExistsError(f"{target} exists already", hint="--overwrite replaces it")
