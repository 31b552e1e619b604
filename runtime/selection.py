"""The k largest of many numbers, and the place where a sum of the largest reaches a target, without sorting.

Both know one order: larger values first, equal values by lower position. Only what stands near the place that
is asked for is ever sorted.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Doubles", "Positions", "largest", "prefix_sum"]

Positions = NDArray[np.intp]
Doubles = NDArray[np.float64]

_GROUPS = 1024
_SORTABLE = 1024  # sorting that many costs less than another round over their digits
_BLOCK = 1 << 16
_DIGIT = (1 << 13) - 1
_SHIFTS = (49, 36, 23, 10)  # doubles from 0 to 1 have 62 bits; sorting is fast where only the last 10 differ


def largest(values: NDArray[Any], count: int) -> Positions:
    """Positions of the ``count`` largest of ``values [n]``, ascending; all when there are no more.

    The ``count``-th largest of the maxima of disjoint groups is a bound that at least ``count`` values reach
    and hardly any more do: two fast passes and a short sort. NaN is not expected.
    """
    if count >= len(values):
        return np.arange(len(values))
    grouped = count <= _GROUPS <= len(values)
    # A group is a stride, so that neighbours, often alike, fall into different ones. Values after the last
    # whole row can only raise the bound, and are not needed for it.
    peaks = values[: len(values) // _GROUPS * _GROUPS].reshape(-1, _GROUPS).max(axis=0) if grouped else values
    found = np.flatnonzero(values >= np.partition(peaks, -count)[-count])
    if len(found) > count:
        found = np.sort(found[np.argsort(-values[found], kind="stable")[:count]])
    return found


def prefix_sum(weights: Doubles, target: float, side: Literal["left", "right"]) -> int:
    """Add up ``weights [n]``, largest first, until the sum reaches (left) or exceeds (right) ``target``.

    Weights are between 0 and 1, at least one of them above 0; ``target`` is above 0, or at least 0 for
    "right". Returns the position of the last one added, at the latest that of the last one above 0: by
    rounding, the target may be out of reach.

    Doubles from 0 to 1 are in the order of their bits, so this is a radix selection: sums per digit of all
    weights, then per next digit of those that share the decisive one, until few enough are left to be sorted.
    """
    members: Positions | None = None
    before, bits = 0.0, 0
    for shift in _SHIFTS:
        if len(weights) <= _SORTABLE:
            break
        step, before = _reach(_digit_sums(weights, shift)[::-1], before, target, side)
        bits += (_DIGIT - step) << shift
        low, high = np.array([bits, bits + (1 << shift)]).view(np.float64)
        chosen = np.flatnonzero((weights >= low) & (weights < high))
        if len(chosen) < len(weights):
            weights, members = weights[chosen], chosen if members is None else members[chosen]
    order = np.argsort(-weights, kind="stable")
    step, _ = _reach(weights[order], before, target, side)
    position = order[step]
    return int(position if members is None else members[position])


def _digit_sums(weights: Doubles, shift: int) -> Doubles:
    """The sum of the weights by one digit of their bits ``[8192]``.

    In blocks, because the memory of large temporary arrays comes from the system page by page, at a multiple
    of what the arithmetic costs.
    """
    sums = np.zeros(_DIGIT + 1)
    for start in range(0, len(weights), _BLOCK):
        block = weights[start : start + _BLOCK]
        sums += np.bincount(block.view(np.int64) >> shift & _DIGIT, block, _DIGIT + 1)
    return sums


def _reach(steps: Doubles, before: float, target: float, side: Literal["left", "right"]) -> tuple[int, float]:
    """Which of the steps up from ``before`` reaches the target, and the sum ahead of that step."""
    sums = before + steps.cumsum()
    at = int(sums.searchsorted(target, side))
    if at == len(steps):
        at = int(np.flatnonzero(steps)[-1])
    return at, float(sums[at - 1]) if at else before
