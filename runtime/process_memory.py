"""How much memory this process has for itself: mapped model files, which processes share, do not count."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Memory", "MemoryWatch", "read_memory"]

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Memory:
    """A reading in bytes and what was read."""

    bytes: int
    kind: str
    """``private`` (anonymous pages), or ``resident``: with mapped files, where the system tells no more."""


def read_memory() -> Memory | None:
    """The memory in use now on Linux, the peak so far on macOS and BSD, None on Windows."""
    try:
        lines = _STATUS.read_text("ascii", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("RssAnon:"):
            return Memory(int(line.split()[1]) * 1024, "private")
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Memory(peak if sys.platform == "darwin" else peak * 1024, "resident")


class MemoryWatch:
    """Keeps the highest reading, taken every few milliseconds on a thread of its own while it is entered."""

    def __init__(self, interval: float = 0.005) -> None:
        self.peak: Memory | None = None
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def sample(self) -> None:
        """Take one reading now."""
        now = read_memory()
        if now is not None and (self.peak is None or now.bytes > self.peak.bytes):
            self.peak = now

    def __enter__(self) -> Self:
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="cg-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.sample()
