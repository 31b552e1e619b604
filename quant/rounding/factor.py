"""What errors in a layer's weights cost: mean products of its inputs, and their triangular factor.

With inputs ``x`` an error ``e`` in a row costs ``e H eᵀ``, ``H = mean(x xᵀ)``. GPTQ rounds the columns
from first to last, so it wants ``H = M Mᵀ`` with ``M`` *upper* triangular: entry ``j`` of ``e M`` then
depends on columns up to ``j`` only, and column ``j`` can make up for what those before it did.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cg.quant.rounding.workers import Workers
from cg.runtime.dtypes import BLOCK_SIZE
from cg.runtime.tensor import Floats

__all__ = ["add_products", "block_order", "factorize", "mirror", "solve"]

_STRIP = 512  # columns worked on at a time: what is temporary stays small beside the matrix
_DAMPING_TRIES = 6


def add_products(products: Floats, x: Floats, workers: Workers) -> None:
    """Add ``xᵀ x`` of ``x [T, cols]`` to the upper triangle of ``products [cols, cols]``."""

    def add(start: int) -> None:
        stop = min(start + _STRIP, x.shape[1])
        products[:stop, start:stop] += x[:, :stop].T @ x[:, start:stop]

    workers.each(add, reversed(range(0, x.shape[1], _STRIP)))  # the longest strip first


def block_order(diagonal: Floats) -> NDArray[np.intp]:
    """Columns in blocks of 32, the blocks whose inputs are largest first: what comes first is made up for."""
    blocks = diagonal.reshape(-1, BLOCK_SIZE).sum(axis=1)
    order = np.argsort(-blocks, kind="stable")
    return (order[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE)).reshape(-1)


def factorize(products: Floats, damping: float, workers: Workers) -> float:
    """Replace the upper triangle of a symmetric matrix by ``M``, with ``M Mᵀ = products + damping * mean``.

    The lower triangle, which must hold the same products, is left as it was. What is added to the diagonal is
    ``damping`` times its mean, ten times as much whenever that does not make it positive definite in float32.
    ``products`` is ``[cols, cols]``, C-contiguous, cols a multiple of 32. Returns the damping that was used.

    Raises:
        numpy.linalg.LinAlgError: no damping helps; the products are not finite.
    """
    diagonal = products.diagonal().copy()
    mean = float(diagonal.mean(dtype=np.float64))
    mean = mean if mean > 0 else 1.0  # inputs that are always zero: any rounding is as good
    for attempt in range(_DAMPING_TRIES):
        if attempt:
            damping *= 10
            mirror(products, upper_to_lower=False)
        np.fill_diagonal(products, diagonal + np.float32(damping * mean))
        try:
            _factorize(products, workers)
        except np.linalg.LinAlgError:
            continue
        return damping
    raise np.linalg.LinAlgError(f"not positive definite with {damping:g} of the mean added")


def solve(factor: Floats, v: Floats) -> None:
    """Replace ``v [n, cols]`` by ``v (M Mᵀ)⁻¹``, given ``M`` in the upper triangle of ``factor``."""
    starts = range(0, len(factor), _STRIP)
    for start in reversed(starts):
        stop = min(start + _STRIP, len(factor))
        v[:, start:stop] -= v[:, stop:] @ factor[start:stop, stop:].T
        v[:, start:stop] = v[:, start:stop] @ _inverse(factor[start:stop, start:stop]).T
    for start in starts:
        stop = min(start + _STRIP, len(factor))
        v[:, start:stop] -= v[:, :start] @ factor[:start, start:stop]
        v[:, start:stop] = v[:, start:stop] @ _inverse(factor[start:stop, start:stop])


def _inverse(a: Floats) -> Floats:
    """Of a small upper triangular matrix; what is below the diagonal does not count."""
    return np.linalg.inv(np.triu(a).astype(np.float64)).astype(np.float32)


def _factorize(a: Floats, workers: Workers) -> None:
    """In place, from the last columns to the first: ``A[:k, :k] -= M[:k, k] M[:k, k]ᵀ``."""
    for stop in range(len(a), 0, -_STRIP):
        start = max(stop - _STRIP, 0)
        corner = _upper(a[start:stop, start:stop])
        if not np.isfinite(corner).all():
            raise np.linalg.LinAlgError("not finite")
        a[start:stop, start:stop] = np.triu(corner) + np.tril(a[start:stop, start:stop], -1)
        if start == 0:
            return
        a[:start, start:stop] = panel = a[:start, start:stop] @ _inverse(a[start:stop, start:stop]).T

        def update(right: int, panel: Floats = panel) -> None:
            left = max(right - _STRIP, 0)
            a[:left, left:right] -= panel[:left] @ panel[left:right].T
            a[left:right, left:right] -= np.triu(panel[left:right] @ panel[left:right].T)

        workers.each(update, range(start, 0, -_STRIP))


def _upper(a: Floats) -> NDArray[np.float64]:
    """The factor of a small matrix whose upper triangle counts, in float64."""
    full = np.triu(a).astype(np.float64)
    full += np.triu(full, 1).T
    upper: NDArray[np.float64] = np.linalg.cholesky(full[::-1, ::-1]).astype(np.float64)[::-1, ::-1]
    return upper


def mirror(a: Floats, *, upper_to_lower: bool) -> None:
    """Copy one triangle of a square matrix to the other, in place."""
    for start in range(0, len(a), _STRIP):
        stop = min(start + _STRIP, len(a))
        above, beside, corner = a[:start, start:stop], a[start:stop, :start], a[start:stop, start:stop]
        if upper_to_lower:
            beside[:] = above.T
            corner[:] = np.triu(corner) + np.triu(corner, 1).T
        else:
            above[:] = beside.T
            corner[:] = np.tril(corner) + np.tril(corner, -1).T
