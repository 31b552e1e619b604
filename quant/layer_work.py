"""How far a calibrated quantization is: its steps weighted by what they cost."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["LayerWork", "WorkProgress"]

WorkProgress = Callable[[str, float], None]
"""``(what is being done, share of the whole that is done, 0 to 1)``. May raise to cancel."""

_BYTE_PRODUCT = 0.3  # of what a float32 product costs, measured on two cores with AVX2
_FIT = 4000.0  # float32 products that cost as much as trying all scales for a weight


class LayerWork:
    """Adds up costs in multiplications of float32 matrix products."""

    def __init__(self, tokens: int, progress: WorkProgress | None) -> None:
        self._tokens, self._progress = tokens, progress
        self._total = self._done = 0.0
        self._stage = ""

    def pass_cost(self, parameters: int, *, both: bool) -> float:
        """Of running all tokens through ``parameters`` weights, of the original too if ``both``."""
        return self._tokens * parameters * (_BYTE_PRODUCT + both)

    def group_cost(self, rows: int, cols: int, *, gptq: bool, drift: bool) -> float:
        """Of measuring the inputs of ``rows x cols`` weights and rounding them."""
        products = cols**2 * (self._tokens / 2 + cols / 6 + rows / 2) if gptq else self._tokens * cols
        sums = min(2 * rows * self._tokens, cols * (self._tokens + rows))  # apart or joint
        drifts = cols * (sums + rows * cols) if drift else 0
        return products + drifts + _FIT * rows * cols

    def plan(self, cost: float) -> None:
        """This much is to be done as well."""
        self._total += cost

    def begin(self, stage: str) -> None:
        """This is being done from now on."""
        self._stage = stage
        self.add(0)

    def add(self, cost: float) -> None:
        """This much has been done."""
        self._done += cost
        if self._progress is not None:
            self._progress(self._stage, min(self._done / self._total, 1.0) if self._total else 0.0)
