"""How far a calibrated quantization is: its steps weighted by what they cost."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["LayerWork", "WorkProgress"]

WorkProgress = Callable[[str, float], None]
"""``(what is being done, share of the whole that is done, 0 to 1)``. May raise to cancel."""

# Operations that cost as much as one of a float32 matrix product, measured on two cores with AVX2.
_BYTE_PRODUCT = 0.25
_FIT = 6000.0  # per weight: all scales that are tried


class LayerWork:
    """Adds up costs, in operations of a float32 matrix product."""

    def __init__(self, tokens: int, progress: WorkProgress | None) -> None:
        self._tokens, self._progress = tokens, progress
        self._total = self._done = 0.0

    def pass_cost(self, parameters: int) -> float:
        """Of running all tokens through ``parameters`` weights."""
        return 2 * _BYTE_PRODUCT * self._tokens * parameters

    def group_cost(self, rows: int, cols: int, *, gptq: bool) -> float:
        """Of measuring the inputs of ``rows x cols`` weights and rounding them."""
        products = cols**2 * (self._tokens + 2 * cols / 3 + rows) if gptq else 2 * self._tokens * cols
        return products + _FIT * rows * cols

    def plan(self, cost: float) -> None:
        """This much is to be done as well."""
        self._total += cost

    def add(self, stage: str, cost: float) -> None:
        """This much has been done, and ``stage`` comes next."""
        self._done += cost
        if self._progress is not None:
            self._progress(stage, min(self._done / self._total, 1.0) if self._total else 0.0)
