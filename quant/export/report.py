"""What an export or import did, and how it tells about its progress."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cg.quant.export.rounding import Rounding

__all__ = ["ExportResult", "Progress", "Recorder"]

Progress = Callable[[str, int, int], None]
"""Called with a tensor's name, the source's bytes that are done, and all of them. May raise to cancel."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written."""

    output: Path
    """The file or folder."""
    bytes: int
    """Of the weights' files."""
    types: Mapping[str, int]
    """Number of tensors by the type that they have in the output, by the output's name for it."""
    rounding: Rounding
    """Of all numbers that were written in another type than the source's: scales, or whole weights."""
    rounded: Mapping[str, Rounding]
    """The tensors among whose numbers some changed."""
    notes: tuple[str, ...]
    """What a user should know."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {**asdict(self), "output": str(self.output)}


class Recorder:
    """Collects what becomes of each tensor, and reports the progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        """``total``: bytes of the source."""
        self.types: Counter[str] = Counter()
        self._roundings: dict[str, Rounding] = {}
        self._progress, self._done, self._total = progress, 0, total

    def add(self, tensor: str, source_bytes: int, rounding: Rounding | None = None) -> None:
        """Another piece of ``tensor`` is written."""
        if rounding is not None:
            self._roundings[tensor] = self._roundings.get(tensor, Rounding()) + rounding
        self._done += source_bytes
        if self._progress is not None:
            self._progress(tensor, self._done, self._total)

    def result(self, output: Path, size: int, notes: Iterable[str], started: float) -> ExportResult:
        """The report on ``size`` bytes; ``started`` is a reading of the monotonic clock."""
        return ExportResult(
            output,
            size,
            dict(self.types),
            sum(self._roundings.values(), Rounding()),
            {name: rounding for name, rounding in self._roundings.items() if not rounding.exact},
            tuple(notes),
            time.monotonic() - started,
        )
