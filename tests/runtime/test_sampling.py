"""Sampling filters against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cg.runtime.errors import NonFiniteError, SamplingError
from cg.runtime.sampling import (
    SamplingOptions,
    apply_repetition_penalty,
    candidates,
    make_sampler,
    nucleus,
)

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))


def frequencies(options: SamplingOptions, draws: int = 4000) -> np.ndarray:
    sampler = make_sampler(options)
    return np.bincount([sampler(LOGITS, []) for _ in range(draws)], minlength=5) / draws


def test_the_default_is_the_likeliest_and_the_lowest_id_on_a_tie() -> None:
    sampler = make_sampler(SamplingOptions())
    assert sampler(LOGITS, []) == 1
    assert sampler(np.array([0, 2, 2], np.float32), []) == 1


def test_temperature_one_draws_from_the_distribution() -> None:
    assert frequencies(SamplingOptions(temperature=1, seed=1)) == pytest.approx(
        [0.1, 0.4, 0.05, 0.3, 0.15], abs=0.03
    )


def test_temperature_sharpens_as_defined() -> None:
    sharp = np.array([0.1, 0.4, 0.05, 0.3, 0.15]) ** 2
    assert frequencies(SamplingOptions(temperature=0.5, seed=2)) == pytest.approx(
        sharp / sharp.sum(), abs=0.03
    )


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (SamplingOptions(temperature=1, top_k=2, seed=3), {1, 3}),
        (SamplingOptions(temperature=1, top_k=1, seed=3), {1}),
        (SamplingOptions(temperature=1, top_p=0.5, seed=3), {1, 3}),
        (SamplingOptions(temperature=1, top_p=0.3, seed=3), {1}),
        (SamplingOptions(temperature=1, min_p=0.3, seed=3), {1, 3, 4}),
        (SamplingOptions(temperature=1, top_k=4, top_p=0.99, min_p=0.2, seed=3), {0, 1, 3, 4}),
    ],
)
def test_filters_keep_exactly_the_right_tokens(options: SamplingOptions, allowed: set[int]) -> None:
    assert set(np.flatnonzero(frequencies(options))) == allowed


def test_a_seed_reproduces_and_another_differs() -> None:
    def run(seed: int) -> list[int]:
        sampler = make_sampler(SamplingOptions(temperature=1, seed=seed))
        return [sampler(LOGITS, []) for _ in range(50)]

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_repetition_penalty_divides_positive_and_multiplies_negative() -> None:
    logits = np.array([2, -2, 4, 0], np.float32)
    result = apply_repetition_penalty(logits, [0, 1, 1], 2.0)
    assert result.tolist() == [1, -4, 4, 0]
    assert logits.tolist() == [2, -2, 4, 0]
    assert make_sampler(SamplingOptions(repetition_penalty=3.0))(logits, [2]) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError):
        make_sampler(SamplingOptions())(np.array([0, bad, 1], np.float32), [])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SamplingError):
        SamplingOptions(**options)  # type: ignore[arg-type]


floats = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60)


@given(floats, st.integers(0, 70))
@settings(max_examples=100, deadline=None)
def test_candidates_are_the_k_best_in_order(values: list[float], top_k: int) -> None:
    logits = np.array(values, np.float32)
    ids, probabilities = candidates(logits, top_k)
    wanted = sorted(range(len(values)), key=lambda i: -logits[i])  # stable: ties by lower id
    count = top_k or len(values)
    assert sorted(logits[ids], reverse=True) == [logits[i] for i in wanted[:count]]
    assert probabilities.sum() == pytest.approx(1)
    if top_k == 0:
        assert ids.tolist() == wanted


@given(floats, st.floats(0.01, 1))
@settings(max_examples=100, deadline=None)
def test_nucleus_is_the_smallest_set_that_reaches_p(values: list[float], top_p: float) -> None:
    _, probabilities = candidates(np.array(values, np.float32), 0)
    size = int(nucleus(probabilities, top_p).sum())
    assert size >= 1
    assert probabilities[:size].sum() >= top_p - 1e-9
    assert probabilities[: size - 1].sum() < top_p + 1e-9
