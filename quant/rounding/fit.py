"""Fit the integers and scales of blocks to targets: the step that ``search`` and ``gptq`` share.

A row's block ``t`` of 32 targets, integers ``q`` and a scale ``s`` cost ``|(t - s q) M|²``, where ``M`` is
upper triangular. Columns are rounded one after the other, and each carries what its rounding cost to those
behind it (Babai's nearest plane, which is what GPTQ does: Frantar et al., arXiv 2210.17323; Chen et al.,
arXiv 2507.18553). That is done for every scale of a grid, of either sign; the best scale is then refitted to
its integers by least squares, and they to it. A diagonal ``M`` is a search by weighted squared error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cg.runtime import blocks_native, ops_native
from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.tensor import Floats

__all__ = ["BlockCost", "Fitter", "Levels", "fit_native", "fit_reference"]

_REFITS = 2
_TOP_HALF = np.float32(65504)
_LEAST_NORMAL_HALF = np.float32(2.0**-14)


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """The integers of a block type, and the scales that are tried for it."""

    lowest: int
    highest: int
    fractions: Floats
    """Scales to try as parts of a block's element of largest magnitude."""

    @classmethod
    def of(cls, dtype: DType) -> Levels:
        """Of Q4 or I8: the largest magnitude at 5.5 to 9.5 steps of either sign, or just within 127."""
        if dtype is DType.Q4:
            steps = np.linspace(5.5, 9.5, 17)
            return cls(-8, 7, (1 / np.concatenate([-steps[::-1], steps])).astype(np.float32))
        return cls(-127, 127, (1 / np.linspace(123, 128, 6)).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class BlockCost:
    """The factor ``M`` of a block's cost: its diagonal, and ``M`` with columns divided by it."""

    coupling: Floats
    """``[32, 32]``, ones on the diagonal, zeros below."""
    root: Floats
    """``[32]``, above zero."""
    diagonal: bool
    """Whether ``coupling`` has nothing beside the diagonal."""

    @classmethod
    def from_factor(cls, factor: NDArray[np.floating]) -> BlockCost:
        """Of an upper triangular ``[32, 32]``."""
        root = factor.diagonal()
        return cls(
            np.ascontiguousarray(factor / root, np.float32), np.ascontiguousarray(root, np.float32), False
        )

    @classmethod
    def from_weights(cls, weights: NDArray[np.floating]) -> BlockCost:
        """Of what a squared error costs in each of 32 columns."""
        return cls(np.eye(BLOCK_SIZE, dtype=np.float32), np.sqrt(weights).astype(np.float32), True)


class Fitter:
    """Fits blocks of one type; several threads may share it."""

    def __init__(self, levels: Levels, *, half: bool) -> None:
        """``half``: only scales that f16 holds."""
        self._levels, self._half = levels, half
        self._fit = fit_native if ops_native.import_problem() is None else fit_reference

    def __call__(self, targets: Floats, cost: BlockCost, integers: NDArray[np.int8], scales: Floats) -> None:
        """Fit ``targets`` ``[rows, 32]`` into ``integers`` ``[rows, 32]`` and ``scales`` ``[rows]``.

        All three may be columns of wider arrays.
        """
        losses = np.empty(len(targets), np.float32)
        self._fit(targets, cost, self._levels, self._half, integers, scales, losses)


def fit_native(
    targets: Floats, cost: BlockCost, levels: Levels, half: bool, integers: NDArray[np.int8], scales: Floats,
    losses: Floats,
) -> None:  # fmt: skip
    """The compiled kernel; it runs without Python's lock."""
    blocks_native.fit_blocks(
        targets, cost.coupling, cost.root, cost.diagonal, levels.fractions,
        (levels.lowest, levels.highest), half, integers, scales, losses,
    )  # fmt: skip


def fit_reference(
    targets: Floats, cost: BlockCost, levels: Levels, half: bool, integers: NDArray[np.int8], scales: Floats,
    losses: Floats,
) -> None:  # fmt: skip
    """The same in numpy, to the bit: the definition, and the fallback where nothing was compiled."""
    with np.errstate(all="ignore"):  # what overflows never becomes the best
        best = _Best(len(targets))
        first = np.abs(targets).argmax(axis=1)[:, None]
        peak = np.take_along_axis(targets, first, axis=1)[:, 0]
        seen = _carried(targets, cost)
        for fraction in levels.fractions:
            scale = peak * fraction
            best.keep(*_round(targets, cost, levels, _to_half(scale) if half else scale))
        for _ in range(_REFITS):
            made = _carried(best.integers, cost)
            above = below = np.zeros(len(targets), np.float32)
            for j in range(BLOCK_SIZE):
                weighted = made[:, j] * cost.root[j] * cost.root[j]
                above = above + weighted * seen[:, j]
                below = below + weighted * made[:, j]
            scale = np.where(below > 0, above / below, best.scale)
            scale = _to_half(scale) if half else scale
            lost = (seen - scale[:, None] * made) * cost.root
            best.keep(best.integers.copy(), scale, _sum_of_squares(lost))
            best.keep(*_round(targets, cost, levels, scale))
    integers[:], scales[:], losses[:] = best.integers, best.scale, best.loss


class _Best:
    """The best integers and scale of every row so far."""

    def __init__(self, rows: int) -> None:
        self.integers = np.zeros((rows, BLOCK_SIZE), np.float32)
        self.scale = np.zeros(rows, np.float32)
        self.loss = np.full(rows, 3.4e38, np.float32)

    def keep(self, integers: Floats, scale: Floats, loss: Floats) -> None:
        better = loss < self.loss
        self.integers[better], self.scale[better] = integers[better], scale[better]
        self.loss[better] = loss[better]


def _round(targets: Floats, cost: BlockCost, levels: Levels, scale: Floats) -> tuple[Floats, Floats, Floats]:
    """Round column after column, errors carried on: integers ``[rows, 32]``, the scale, and the loss."""
    inverse = np.where(np.abs(scale) < np.float32(1e-37), np.float32(0), np.float32(1) / scale)
    integers, error, lost = np.empty((3, *targets.shape), np.float32)
    for j in range(BLOCK_SIZE):
        x = targets[:, j]
        if not cost.diagonal:
            for i in range(j):
                x = x + error[:, i] * cost.coupling[i, j]
        integers[:, j] = np.clip(np.floor(x * inverse + np.float32(0.5)), levels.lowest, levels.highest)
        value = integers[:, j] * scale
        lost[:, j] = (x - value) * cost.root[j]
        error[:, j] = targets[:, j] - value
    return integers, scale, _sum_of_squares(lost)


def _carried(values: Floats, cost: BlockCost) -> Floats:
    """``values`` times the coupling, added up column after column."""
    sums = values.astype(np.float32)
    if not cost.diagonal:
        for j in range(BLOCK_SIZE):
            for i in range(j):
                sums[:, j] += values[:, i] * cost.coupling[i, j]
    return sums


def _sum_of_squares(lost: Floats) -> Floats:
    """Over columns, one after the other."""
    loss = np.zeros(len(lost), np.float32)
    for j in range(BLOCK_SIZE):
        loss += lost[:, j] * lost[:, j]
    return loss


def _to_half(scale: Floats) -> Floats:
    """To the nearest number that f16 holds, in float32."""
    within = np.clip(scale, -_TOP_HALF, _TOP_HALF)
    large = within * np.float32(8193)
    small = (within + np.float32(0.75)) - np.float32(0.75)
    return np.where(np.abs(within) < _LEAST_NORMAL_HALF, small, large - (large - within))
