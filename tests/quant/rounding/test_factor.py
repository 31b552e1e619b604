"""Products of inputs and their factor, against plain float64 numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cg.quant.rounding.factor import add_products, block_order, factorize, mirror, solve
from cg.quant.rounding.workers import Workers
from cg.runtime.tensor import Floats

COLS = 1088  # two strips and a bit


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as team:
        yield team


def inputs(tokens: int = 1500, cols: int = COLS) -> Floats:
    rng = np.random.default_rng(5)
    shared = rng.standard_normal((tokens, 8)) @ rng.standard_normal((8, cols))
    return (shared + rng.standard_normal((tokens, cols))).astype(np.float32)


def products_of(x: Floats) -> Floats:
    full: Floats = (x.T @ x / np.float32(len(x))).astype(np.float32)
    return np.triu(full) + np.triu(full, 1).T


def test_products_fill_the_upper_triangle(workers: Workers) -> None:
    x = inputs(300)
    products = np.zeros((COLS, COLS), np.float32)
    add_products(products, x[:200], workers)
    add_products(products, x[200:], workers)
    expected = x.astype(np.float64).T @ x.astype(np.float64)
    np.testing.assert_allclose(np.triu(products), np.triu(expected), rtol=1e-4, atol=1e-2)
    mirror(products, upper_to_lower=True)
    np.testing.assert_array_equal(products, products.T)


def test_the_factor_is_upper_triangular_and_its_square_the_damped_products(workers: Workers) -> None:
    products = products_of(inputs())
    factor = products.copy()
    assert factorize(factor, 0.01, workers) == 0.01
    upper = np.triu(factor).astype(np.float64)
    damped = products + 0.01 * products.diagonal().mean(dtype=np.float64) * np.eye(COLS)
    np.testing.assert_allclose(upper @ upper.T, damped, atol=1e-4 * products.diagonal().max())
    np.testing.assert_array_equal(np.tril(factor, -1), np.tril(products, -1))  # left as it was


def test_singular_products_get_more_damping(workers: Workers) -> None:
    """One input repeated in all columns, far above what the damping adds in float32."""
    x = np.repeat(np.random.default_rng(6).standard_normal((50, 1)), COLS, axis=1).astype(np.float32) * 1e3
    products = products_of(x)
    factor = products.copy()
    damping = factorize(factor, 1e-6, workers)
    assert damping > 1e-6
    upper = np.triu(factor).astype(np.float64)
    damped = products + damping * products.diagonal().mean(dtype=np.float64) * np.eye(COLS)
    np.testing.assert_allclose(upper @ upper.T, damped, rtol=1e-4)


def test_inputs_that_are_always_zero(workers: Workers) -> None:
    factor = np.zeros((64, 64), np.float32)
    factorize(factor, 0.01, workers)
    np.testing.assert_allclose(factor, 0.1 * np.eye(64), rtol=1e-6)


def test_products_that_are_not_finite(workers: Workers) -> None:
    products = np.eye(64, dtype=np.float32)
    products[3, 3] = np.nan
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        factorize(products, 0.01, workers)


def test_solve(workers: Workers) -> None:
    products = products_of(inputs())
    factor = products.copy()
    factorize(factor, 0.01, workers)
    upper = np.triu(factor).astype(np.float64)
    wanted = np.random.default_rng(7).standard_normal((5, COLS))
    v = (wanted @ upper @ upper.T).astype(np.float32)
    solve(factor, v)
    np.testing.assert_allclose(v, wanted, atol=2e-3)  # condition times float32


def test_block_order_moves_whole_blocks_the_largest_first() -> None:
    diagonal = np.repeat(np.array([1, 5, 3], np.float32), 32)
    order = block_order(diagonal)
    np.testing.assert_array_equal(order[::32], [32, 64, 0])
    np.testing.assert_array_equal(order[:32], np.arange(32, 64))


def test_threads_do_not_change_the_result() -> None:
    results = []
    for threads in (1, 3):
        with Workers(threads) as workers:
            products = np.zeros((COLS, COLS), np.float32)
            add_products(products, inputs(), workers)
            mirror(products, upper_to_lower=True)
            factorize(products, 0.01, workers)
            results.append(products)
    np.testing.assert_array_equal(results[0], results[1])
