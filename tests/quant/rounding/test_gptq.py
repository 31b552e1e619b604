"""GPTQ on matrices: what it does to the outputs, which is all that counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from cg.quant.rounding.fit import Fitter, Levels
from cg.quant.rounding.method import Calibrated, GptqRounder, Rounder, SearchRounder, new_rounder
from cg.quant.rounding.search import search
from cg.quant.rounding.workers import Workers
from cg.runtime.dtypes import DType
from cg.runtime.tensor import Floats

ROWS, COLS, TOKENS = 40, 320, 600
DAMPING = 0.01


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as team:
        yield team


@pytest.fixture
def fit() -> Fitter:
    return Fitter(Levels.of(DType.Q4), half=False)


def inputs(seed: int = 0) -> Floats:
    """Correlated, some columns much larger than others, as activations are."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((TOKENS, 30)) @ np.random.default_rng(99).standard_normal((30, COLS))
    size = np.exp(np.random.default_rng(98).standard_normal(COLS))
    return ((shared + rng.standard_normal((TOKENS, COLS))) * size).astype(np.float32)


def weights() -> Floats:
    return np.random.default_rng(1).standard_normal((ROWS, COLS)).astype(np.float32)


def restored(integers: NDArray[np.int8], scales: Floats) -> Floats:
    """What integers and scales stand for."""
    return integers.astype(np.float32) * np.repeat(scales, 32, axis=1)


def rounded(rounder: Rounder, x: Floats, drift: Floats | None, fit: Fitter, workers: Workers) -> Floats:
    for part in np.array_split(x, 3):
        rounder.measure(part, workers)
    rounder.prepare(workers)
    integers, scales = rounder.round(weights(), drift, fit)
    assert integers.dtype == np.int8
    assert scales.shape == (ROWS, COLS // 32)
    return restored(integers, scales)


def output_error(values: Floats, x: Floats) -> float:
    return float(np.linalg.norm((weights() - values) @ x.T.astype(np.float64)))


def test_each_method_costs_less_at_the_output_than_the_one_before(fit: Fitter, workers: Workers) -> None:
    x, unseen = inputs(), inputs(seed=2)
    errors = [output_error(restored(*search(weights(), None, fit)), unseen)]
    for method in get_args(Calibrated):
        values = rounded(new_rounder(method, COLS, DAMPING), x, None, fit, workers)
        errors.append(output_error(values, unseen))
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def textbook(weight: Floats, x: Floats, scales: Floats) -> Floats:
    """GPTQ as its paper has it, in float64: the inverse's Cholesky factor, one column after the other."""
    products = x.T.astype(np.float64) @ x / len(x)
    products += DAMPING * np.mean(np.diag(products)) * np.eye(COLS)
    upper = np.linalg.cholesky(np.linalg.inv(products)).T
    left, values = weight.astype(np.float64), np.zeros(weight.shape)
    for j in range(COLS):
        scale = scales[:, j // 32]
        values[:, j] = np.clip(np.floor(left[:, j] / scale + 0.5), -8, 7) * scale
        error = (left[:, j] - values[:, j]) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
    return values.astype(np.float32)


def test_it_is_the_papers_algorithm_with_better_scales(fit: Fitter, workers: Workers) -> None:
    x = inputs()
    rounder = GptqRounder(COLS, DAMPING)
    values = rounded(rounder, x, None, fit, workers)
    scales = rounder.round(weights(), None, fit)[1]
    with_our_scales = output_error(textbook(weights(), x, scales), x)
    with_jlamas = output_error(textbook(weights(), x, search(weights(), None, fit)[1]), x)
    assert output_error(values, x) < 1.02 * with_our_scales
    assert output_error(values, x) < 0.95 * with_jlamas


def test_drift_is_made_up_for(fit: Fitter, workers: Workers) -> None:
    """Inputs that lost something in the same way all over: outputs come nearer to the original's."""
    wanted = inputs()
    loss = 0.05 * np.random.default_rng(3).standard_normal((COLS, COLS)).astype(np.float32)
    x = wanted + wanted @ loss
    drift = weights() @ (wanted - x).T @ x

    def missed(values: Floats) -> float:
        return float(np.linalg.norm(wanted @ weights().T - x @ values.T))

    without = missed(rounded(GptqRounder(COLS, DAMPING), x, None, fit, workers))
    assert missed(rounded(GptqRounder(COLS, DAMPING), x, drift, fit, workers)) < 0.5 * without


def test_rows_do_not_depend_on_each_other(fit: Fitter, workers: Workers) -> None:
    rounder = GptqRounder(COLS, DAMPING)
    whole = rounded(rounder, inputs(), None, fit, workers)
    integers, scales = rounder.round(weights()[8:24], None, fit)
    values = restored(integers, scales)
    np.testing.assert_allclose(values, whole[8:24], rtol=1e-5)  # BLAS adds up in another order


@pytest.mark.parametrize("rounder", [SearchRounder(COLS, DAMPING), GptqRounder(COLS, DAMPING)])
def test_inputs_that_are_always_zero(rounder: Rounder, fit: Fitter, workers: Workers) -> None:
    values = rounded(rounder, np.zeros((TOKENS, COLS), np.float32), None, fit, workers)
    assert np.linalg.norm(values - weights()) < 0.1 * np.linalg.norm(weights())
