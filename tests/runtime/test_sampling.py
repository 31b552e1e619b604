"""Sampling filters against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cg.runtime.errors import NonFiniteError, SamplingError
from cg.runtime.sampling import SamplingOptions, apply_repetition_penalty, draw, make_sampler, nucleus

ROUNDING = 1e-9
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


@pytest.mark.parametrize(("extreme", "penalty"), [(-3e38, 2.0), (3e38, 0.5)])
def test_a_penalty_that_overflows_is_refused(extreme: float, penalty: float) -> None:
    sampler = make_sampler(SamplingOptions(temperature=1, repetition_penalty=penalty))
    with pytest.raises(NonFiniteError):
        sampler(np.array([0, extreme], np.float32), [1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 3, 100, 4099])
def test_non_finite_logits_are_refused(bad: float, size: int, penalty: float, temperature: float) -> None:
    sampler = make_sampler(SamplingOptions(temperature, repetition_penalty=penalty))
    for at in {0, size // 2, size - 1}:
        logits = np.linspace(-3, 3, size, dtype=np.float32)
        logits[at] = bad
        with pytest.raises(NonFiniteError):
            sampler(logits, [0])


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


class Plain:
    """The definition: sort everything by logits for top-k and then by weights, cut, draw."""

    def __init__(self, logits: np.ndarray, options: SamplingOptions) -> None:
        ids = np.sort(np.argsort(-logits, kind="stable")[: options.top_k or None])
        with np.errstate(over="ignore"):
            weights = np.exp((logits[ids].astype(np.float64) - logits.max()) / options.temperature)
        ranked = np.argsort(-weights, kind="stable")
        order, weights = ids[ranked], weights[ranked]
        before = np.concatenate([[0], weights.cumsum()[:-1]]) / weights.sum()
        self.sums = weights.cumsum()
        self.order = order
        # Sizes that rounding may give to what is left; nearly always one.
        self.sizes = {
            min(int((before < options.top_p * (1 + r)).sum()), int((weights >= options.min_p).sum()))
            for r in (-ROUNDING, 0, ROUNDING)
        }

    def tokens(self, chance: float) -> set[int]:
        """What may be drawn; more than one token where rounding decides."""
        return {
            int(self.order[min(int(self.sums[:size].searchsorted(at, "right")), size - 1)])
            for size in self.sizes
            for at in self.sums[size - 1] * (chance + np.array([-ROUNDING, 0, ROUNDING]))
        }


def check(logits: np.ndarray, options: SamplingOptions, draws: int) -> None:
    sampler, generator = make_sampler(options), np.random.default_rng(options.seed)
    plain = Plain(logits, options)
    for _ in range(draws):
        assert sampler(logits, []) in plain.tokens(generator.random())


OPTIONS = [
    SamplingOptions(temperature=1, seed=0),
    SamplingOptions(temperature=100, seed=1),
    SamplingOptions(temperature=1e-3, top_p=0.9, seed=2),
    SamplingOptions(temperature=1, top_k=40, seed=3),
    SamplingOptions(temperature=1, top_k=3000, top_p=0.9, min_p=0.01, seed=4),
    SamplingOptions(temperature=1, top_p=0.95, seed=5),
    SamplingOptions(temperature=1, top_p=1e-9, seed=6),
    SamplingOptions(temperature=1, top_p=1 - 1e-7, seed=7),
    SamplingOptions(temperature=1, min_p=0.05, seed=8),
    SamplingOptions(temperature=1, min_p=1e-30, seed=9),
    SamplingOptions(temperature=0.8, top_p=0.5, min_p=0.2, seed=10),
    SamplingOptions(temperature=0.8, top_k=40, top_p=0.95, seed=11),
]


def vocabulary(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    normal = rng.normal(size=256_000)
    ranks = rng.permutation(256_000)
    logits = {
        "normal": normal,
        "peaked": np.where(ranks < 40, 24 - ranks / 4, 3 * normal),
        "heavy tail": -1.2 * np.log1p(ranks),
        "ties": np.round(normal),
        "equal": np.zeros(256_000),
        "nearly equal": 1e-6 * normal,
        "one dominates": np.where(ranks == 0, 100.0, normal),
        "all in the tail": np.where(ranks == 0, 11.0, normal / 100),
        "ascending": np.arange(256_000) / 1e4,
        "descending": -np.arange(256_000) / 1e4,
        "huge": 1e38 * normal / 2,
    }[kind]
    return logits.astype(np.float32)


KINDS = [
    "normal",
    "peaked",
    "heavy tail",
    "ties",
    "equal",
    "nearly equal",
    "one dominates",
    "all in the tail",
    "ascending",
    "descending",
    "huge",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_of_full_size_is_sampled_as_sorting_would(kind: str) -> None:
    logits = vocabulary(kind)
    for options in OPTIONS:
        check(logits, options, 12)


floats = st.lists(
    st.one_of(st.floats(-30, 30, width=32), st.sampled_from([-100.0, 0.0, 1.0, 12.0])),
    min_size=1,
    max_size=300,
)


@given(
    floats,
    st.sampled_from([1e-40, 0.1, 0.8, 1.0, 50.0]),
    st.sampled_from([0, 1, 2, 40, 299, 400]),
    st.sampled_from([1e-6, 0.3, 0.5, 0.95, 1 - 1e-7, 1.0]),
    st.sampled_from([0.0, 1e-9, 0.05, 0.5, 0.999]),
    st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_any_filters_choose_as_sorting_would(
    values: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    check(np.array(values, np.float32), SamplingOptions(temperature, top_k, top_p, min_p, seed=seed), 3)


@pytest.mark.parametrize(
    "options", [SamplingOptions(temperature=1, seed=20), SamplingOptions(temperature=1, top_p=0.8, seed=21)]
)
def test_frequencies_are_right_where_the_mass_is_in_the_tail(options: SamplingOptions) -> None:
    size = 8000
    logits = np.full(size, -10.2, np.float32)  # the likeliest token has 3 in 4, the others have the rest
    logits[7] = 0
    sampler = make_sampler(options)
    drawn = np.array([sampler(logits, []) for _ in range(2000)])
    weight = np.exp(logits[0], dtype=np.float64)
    total = 1 + (size - 1) * weight
    assert np.mean(drawn == 7) == pytest.approx(1 / (options.top_p * total), abs=0.03)
    tail = drawn[drawn != 7]
    end = (options.top_p * total - 1) / weight  # of equal ids, top-p keeps the lower ones
    assert 0.97 * end <= tail.max() <= end + 1
    assert np.mean(tail) == pytest.approx(end / 2, rel=0.08)


def test_a_draw_falls_on_the_tokens_laid_end_to_end_likeliest_first() -> None:
    weights = np.array([0.5, 1, 0.5])
    assert [draw(None, weights, at) for at in (0, 0.9, 1, 1.4, 1.5, 1.9, 2, 3)] == [1, 1, 0, 0, 2, 2, 2, 2]
    assert draw(np.array([10, 20, 30]), weights, 1) == 10
    assert draw(None, np.tile(weights, 5000), 0) == 1


def test_seeds_keep_their_meaning() -> None:
    logits = (np.random.default_rng(0).standard_normal(5000) * 3).astype(np.float32)

    def drawn(**options: float) -> list[int]:
        sampler = make_sampler(SamplingOptions(seed=11, **options))  # type: ignore[arg-type]
        return [sampler(logits, []) for _ in range(8)]

    # From a version that sorted all logits.
    assert drawn(temperature=1) == [4421, 3628, 3027, 3801, 2845, 1439, 219, 4421]
    assert drawn(temperature=1.5, top_p=0.95) == [3375, 2512, 1686, 219, 2208, 4992, 1051, 2990]
    assert drawn(temperature=0.8, top_k=40, top_p=0.9) == [3801, 1051, 270, 3801, 3801, 2753, 3801, 3801]
    assert drawn(temperature=1, min_p=0.05) == [219, 1764, 3209, 3801, 219, 4751, 3801, 219]
    assert drawn(temperature=1, top_p=0.9, min_p=0.01) == [219, 2753, 2234, 3801, 4421, 2165, 3801, 219]


def test_top_k_keeps_the_lower_of_equal_ids() -> None:
    sampler = make_sampler(SamplingOptions(temperature=1, top_k=3, seed=5))
    assert {sampler(np.zeros(3000, np.float32), []) for _ in range(60)} == {0, 1, 2}


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-4])
def test_next_to_no_temperature_leaves_the_likeliest(temperature: float) -> None:
    logits = np.array([3e38, 1, 3e38, -3e38] + [0] * 60, np.float32)
    sampler = make_sampler(SamplingOptions(temperature=temperature, seed=6))
    assert {sampler(logits, []) for _ in range(40)} == {0, 2}


@given(st.lists(st.integers(0, 1024), min_size=1, max_size=60).filter(any), st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_nucleus_is_the_smallest_set_that_reaches_its_mass(parts: list[int], copies: int) -> None:
    weights = np.tile(np.array(parts) / 1024, copies)
    order = np.argsort(-weights, kind="stable")
    for count in range(1, len(parts) + 1):
        if weights[order[count - 1]] > 0:
            mass = weights[order[:count]].sum()
            assert np.flatnonzero(nucleus(weights, mass)).tolist() == sorted(order[:count])
            assert nucleus(weights, mass - 1 / 4096).sum() == count
