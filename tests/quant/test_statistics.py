"""Perplexity and divergence against plain float64 arithmetic."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from cg.quant import statistics
from cg.quant.statistics import PERCENTILES, Estimate, TokenScores, score_tokens, summarize
from cg.runtime.errors import NonFiniteError, UsageError
from cg.runtime.ops import Ids
from cg.runtime.tensor import Floats

TOKENS, VOCAB = 300, 97


def logits(seed: int = 0, noise: float = 0.3) -> tuple[Floats, Floats, Ids]:
    """Two models' logits that resemble each other, and the true tokens."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(TOKENS, VOCAB)) * 4
    other = base + rng.normal(size=base.shape) * noise
    targets = rng.integers(VOCAB, size=TOKENS).astype(np.int32)
    return base.astype(np.float32), other.astype(np.float32), targets


def definition(base: Floats, other: Floats, targets: Ids) -> tuple[np.ndarray, ...]:
    """One token after the other, as the definitions are written."""
    columns = []
    for l, m, t in zip(base.astype(np.float64), other.astype(np.float64), targets, strict=True):  # noqa: E741
        p, q = np.exp(l) / np.exp(l).sum(), np.exp(m) / np.exp(m).sum()
        columns.append(
            (-math.log(p[t]), -math.log(q[t]), (p * np.log(p / q)).sum(), p.argmax() == q.argmax())
        )
    return tuple(np.array(column) for column in zip(*columns, strict=True))


@pytest.mark.parametrize("slab_bytes", [1, 8 * VOCAB * 7, 1 << 30])
def test_scores_follow_the_definitions_whatever_the_slab(
    slab_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "_SLAB_BYTES", slab_bytes)
    nll, nll_other, kld, same = definition(*logits())
    scores = score_tokens(*logits())
    assert len(scores) == TOKENS
    np.testing.assert_allclose(scores.nll_original, nll, rtol=1e-12)
    np.testing.assert_allclose(scores.nll_quantized, nll_other, rtol=1e-12)
    np.testing.assert_allclose(scores.kld, kld, rtol=1e-9)
    np.testing.assert_array_equal(scores.same_top, same)
    assert 0 < same.mean() < 1


def test_figures_and_errors_follow_llama_perplexity() -> None:
    nll, nll_other, kld, same = definition(*logits())
    figures = summarize(score_tokens(*logits()))
    n = TOKENS

    def mean_and_error(x: np.ndarray) -> tuple[float, float]:
        mean = x.sum() / n
        return mean, math.sqrt(((x * x).sum() / n - mean * mean) / (n - 1))

    (base, base_error), (other, other_error) = mean_and_error(nll), mean_and_error(nll_other)
    covariance = ((nll * nll_other).sum() / n - base * other) / (n - 1)
    ratio_error = math.sqrt(base_error**2 + other_error**2 - 2 * covariance)
    ppl, ppl_other = math.exp(base), math.exp(other)
    difference_error = math.sqrt(
        (ppl * base_error) ** 2 + (ppl_other * other_error) ** 2 - 2 * ppl * ppl_other * covariance
    )
    share = same.sum() / n
    expected = {
        "ppl_original": (ppl, ppl * base_error),
        "ppl_quantized": (ppl_other, ppl_other * other_error),
        "ln_ppl_ratio": (other - base, ratio_error),
        "ppl_ratio": (math.exp(other - base), math.exp(other - base) * ratio_error),
        "ppl_difference": (ppl_other - ppl, difference_error),
        "mean_kld": mean_and_error(kld),
        "same_top": (share, math.sqrt(share * (1 - share) / (n - 1))),
    }
    assert figures.tokens == n
    for name, (value, error) in expected.items():
        estimate: Estimate = getattr(figures, name)
        assert estimate.value == pytest.approx(value, rel=1e-9), name
        assert estimate.error == pytest.approx(error, rel=1e-9), name
    # The models move together: taking them as independent would claim a far larger error.
    assert figures.ln_ppl_ratio.error < 0.3 * math.hypot(base_error, other_error)


def test_spread_and_change_of_probability_follow_llama_perplexity() -> None:
    nll, nll_other, kld, _ = definition(*logits())
    figures = summarize(score_tokens(*logits()))
    change = np.exp(-nll_other) - np.exp(-nll)

    def percentile(values: np.ndarray, fraction: float) -> float:
        """As perplexity.cpp writes it."""
        values = np.sort(values)
        place = fraction * (len(values) - 1)
        low = int(place)
        part = place - low
        return float((1 - part) * values[low] + part * values[min(low + 1, len(values) - 1)])

    assert list(PERCENTILES) == [f.name for f in fields(figures.kld)]
    for name, percent in PERCENTILES.items():
        assert getattr(figures.kld, name) == pytest.approx(percentile(kld, percent / 100), rel=1e-9), name
        assert getattr(figures.delta_p, name) == pytest.approx(percentile(change, percent / 100), rel=1e-9)
    assert (figures.kld.minimum, figures.kld.maximum) == pytest.approx((kld.min(), kld.max()), rel=1e-9)
    assert figures.mean_delta_p.value == pytest.approx(change.mean(), rel=1e-9)
    assert figures.mean_delta_p.error == pytest.approx(math.sqrt(change.var() / (TOKENS - 1)), rel=1e-9)
    square = change**2
    rms = math.sqrt(square.mean())
    assert figures.rms_delta_p.value == pytest.approx(rms, rel=1e-9)
    assert figures.rms_delta_p.error == pytest.approx(
        0.5 / rms * math.sqrt(square.var() / (TOKENS - 1)), rel=1e-9
    )
    assert figures.delta_p.minimum < 0 < figures.delta_p.maximum


def test_two_tokens_by_hand() -> None:
    base = np.log(np.array([[1, 3], [1, 1]], np.float32))  # p = 1/4 3/4, 1/2 1/2
    other = np.log(np.array([[1, 1], [1, 3]], np.float32))
    figures = summarize(score_tokens(base, other, np.array([1, 1], np.int32)))
    assert figures.ppl_original.value == pytest.approx(math.sqrt(4 / 3 * 2))
    assert figures.ppl_quantized.value == pytest.approx(math.sqrt(2 * 4 / 3))
    klds = (0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2), 0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert figures.mean_kld.value == pytest.approx(sum(klds) / 2)
    assert figures.mean_kld.error == pytest.approx(abs(klds[0] - klds[1]) / 2)
    assert figures.mean_delta_p.value == pytest.approx(0)  # -1/4 and +1/4
    assert figures.rms_delta_p.value == pytest.approx(0.25)
    assert figures.rms_delta_p.error == pytest.approx(0, abs=1e-9)
    assert figures.delta_p.median == pytest.approx(0)
    assert figures.delta_p.p25 == pytest.approx(-0.125)
    assert figures.same_top.value == 0  # the first pair ties, and a tie goes to the lower id


def test_equal_logits_differ_by_nothing() -> None:
    base, _, targets = logits()
    figures = summarize(score_tokens(base, base.copy(), targets))
    assert figures.mean_kld == Estimate(0.0, 0.0)
    assert figures.ppl_ratio == Estimate(1.0, 0.0)
    assert figures.ppl_difference == Estimate(0.0, 0.0)
    assert figures.same_top == Estimate(1.0, 0.0)
    assert figures.rms_delta_p == Estimate(0.0, 0.0)
    assert figures.kld.maximum == figures.delta_p.maximum == 0


def test_a_shift_of_all_logits_changes_nothing() -> None:
    base, other, targets = logits()
    shifted = score_tokens(base + np.float32(4096), other - np.float32(4096), targets)
    np.testing.assert_allclose(shifted.kld, score_tokens(base, other, targets).kld, atol=1e-3)


def test_a_certain_and_wrong_model_has_a_finite_divergence() -> None:
    base = np.zeros((2, 4), np.float32)
    other = np.array([[1000, 0, 0, 0]] * 2, np.float32)
    scores = score_tokens(base, other, np.array([0, 1], np.int32))
    np.testing.assert_allclose(scores.nll_quantized, [0, 1000], atol=1e-12)
    np.testing.assert_allclose(scores.kld, 750 - math.log(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_non_finite_logits_are_refused(bad: float, which: int) -> None:
    base, other, targets = logits()
    (base, other)[which][17, 5] = bad
    with pytest.raises(NonFiniteError, match=("original", "quantized")[which]):
        score_tokens(base, other, targets)


def scores_of(nll: float, count: int) -> TokenScores:
    values = np.full(count, nll)
    return TokenScores(values, values, np.zeros(count), np.ones(count, np.bool_))


def test_a_perplexity_beyond_numbers_is_an_error() -> None:
    assert math.isfinite(summarize(scores_of(700, 2)).ppl_original.value)
    with pytest.raises(NonFiniteError, match=r"e\^710"):
        summarize(scores_of(710, 2))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_tokens_for_an_error(count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} scored tokens"):
        summarize(scores_of(1, count))


def test_concatenation_keeps_order() -> None:
    base, other, targets = logits()
    halves = [score_tokens(base[h], other[h], targets[h]) for h in (slice(0, 100), slice(100, None))]
    joined, whole = TokenScores.concatenate(halves), score_tokens(base, other, targets)
    for name in ("nll_original", "nll_quantized", "kld", "same_top"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
