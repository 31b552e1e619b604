"""Counting work that is done in several places against one total."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["STEP_TOKENS", "Progress", "Steps", "steps_of"]

Progress = Callable[[str, int, int], None]
"""``(what is being computed, steps done, steps in all)``. May raise to cancel."""

STEP_TOKENS = 64
"""A step is about the work of so many tokens in one layer."""


class Steps:
    """Tells how much of ``total`` steps is done."""

    def __init__(self, total: int, progress: Progress | None = None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def advance(self, stage: str, steps: int) -> None:
        """So many more are done, of what is named."""
        self._done += steps
        if self._progress is not None:
            self._progress(stage, self._done, self._total)


def steps_of(tokens: int) -> int:
    """The steps of ``tokens`` tokens in one layer, at least one."""
    return max(1, -(-tokens // STEP_TOKENS))
