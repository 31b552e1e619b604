"""Selection without sorting, against sorting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cg.runtime.selection import largest, prefix_sum

ROUNDED = np.random.default_rng(0).integers(0, 50, 5000).astype(np.float32)


def order(values: np.ndarray) -> np.ndarray:
    """Positions, larger values first, equal ones as they stand."""
    return np.argsort(-values, kind="stable")


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.random.default_rng(1).normal(size=5000).astype(np.float32), id="random"),
        pytest.param(ROUNDED, id="ties"),
        pytest.param(np.zeros(5000, np.float32), id="equal"),
        pytest.param(np.arange(5000, dtype=np.float32), id="ascending"),
        pytest.param(-np.arange(5000, dtype=np.float32), id="descending"),
        pytest.param(np.arange(5000, dtype=np.float32) % 1024, id="one-group-holds-the-largest"),
        pytest.param(
            np.where(np.arange(5000) > 4990, 9, ROUNDED).astype(np.float32), id="largest-at-the-end"
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 300, 1023, 1024, 1025, 5000])
def test_the_largest_are_those_that_sorting_puts_first(values: np.ndarray, size: int) -> None:
    values = values[-size:]
    for count in (1, 2, 40, 1023, 1024, 1025, size - 1, size, size + 1):
        if count > 0:
            assert largest(values, count).tolist() == sorted(order(values)[:count])


# Multiples of 1/1024 have exact sums, so that the place is exact as well.
exact = st.lists(st.integers(0, 1024), min_size=1, max_size=60).filter(any)


@given(exact, st.integers(1, 100), st.data())
@settings(max_examples=200, deadline=None)
def test_a_sum_ends_where_sorting_and_adding_up_ends(
    parts: list[int], copies: int, data: st.DataObject
) -> None:
    weights = np.tile(np.array(parts) / 1024, copies)
    ranked = order(weights)
    sums = weights[ranked].cumsum()
    target = data.draw(st.sampled_from([*sums[-60:], *sums[:20] / 2, *sums[:60]]))
    assert prefix_sum(weights, target, "left") == ranked[np.searchsorted(sums, target, "left")]
    if target < sums[-1]:
        assert prefix_sum(weights, target, "right") == ranked[np.searchsorted(sums, target, "right")]


@pytest.mark.parametrize("spread", [0.0, 1e-15, 1e-12, 1e-7, 1e-3, 1.0, 1000.0])
def test_a_sum_over_a_vocabulary_ends_where_sorting_says(spread: float) -> None:
    exponents = np.random.default_rng(2).exponential(spread, 256_000)
    weights = np.exp(exponents.min() - exponents)
    ranked = order(weights)
    sums = weights[ranked].cumsum()
    for share in (0.0, 1e-9, 0.1, 0.5, 0.95, 0.9999, 1 - 1e-9):
        at = sums.searchsorted(share * sums[-1], "right")
        found = int(np.flatnonzero(ranked == prefix_sum(weights, share * sums[-1], "right"))[0])
        assert abs(sums[found] - sums[at]) <= weights[ranked[at]] * 1.5  # a neighbour, by rounding
        assert abs(sums[found] - share * sums[-1]) <= weights[ranked[at]] + 1e-12 * sums[-1]


@pytest.mark.parametrize("size", [3, 20_000])
@pytest.mark.parametrize("smallest", [1e-3, 1e-200, 5e-324])
def test_a_target_out_of_reach_ends_at_the_last_weight_above_zero(size: int, smallest: float) -> None:
    weights = np.zeros(size)
    weights[1], weights[2] = smallest, 1
    for target in (1.5, 1e300):
        assert prefix_sum(weights, target, "left") == 1
        assert prefix_sum(weights, target, "right") == 1


def test_a_sum_of_one_is_itself() -> None:
    assert prefix_sum(np.ones(1), 0.0, "right") == 0
    assert prefix_sum(np.ones(1), 1.0, "left") == 0
