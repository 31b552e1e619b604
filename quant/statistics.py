"""Perplexity and divergence of two models on the same tokens, as llama-perplexity defines them.

Per scored token with the original's logits l and probabilities p, the quantized model's l' and p', all in
float64: ``nll = logsumexp(l) - l[target]``; ``kld = sum(p (ln p - ln p'))`` in nats, over the whole
vocabulary (llama.cpp leaves out entries with ``ln p`` below -16); ``Δp = p'[target] - p[target]``; same top
when both argmax agree, the lower id on a tie. Source: llama.cpp ``tools/perplexity/perplexity.cpp``.

Standard errors are those of a mean over independent tokens, ``sqrt(variance / (n - 1))``. Errors of a ratio
or difference come from the differences token by token, which is the same as subtracting twice the covariance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cg.runtime.errors import NonFiniteError, UsageError
from cg.runtime.ops import Ids
from cg.runtime.tensor import Floats

__all__ = [
    "PERCENTILES",
    "Estimate",
    "Figures",
    "Percentiles",
    "TokenScores",
    "mean_of",
    "score_tokens",
    "summarize",
]

_Doubles = NDArray[np.float64]

_SLAB_BYTES = 16 << 20  # a float64 copy of the logits worked on at a time: 8 rows of 256,000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value with its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Percentiles:
    """How a value is spread over the tokens, from the least to the greatest, as llama-perplexity lists it.

    Between two tokens a percentile is interpolated.
    """

    minimum: float
    p0_1: float
    p1: float
    p5: float
    p10: float
    p25: float
    median: float
    p75: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    maximum: float

    @classmethod
    def of(cls, values: _Doubles) -> Self:
        """Of ``values [n]``, in any order."""
        return cls(*map(float, np.percentile(values, list(PERCENTILES.values()))))


PERCENTILES = {
    "minimum": 0.0, "p0_1": 0.1, "p1": 1.0, "p5": 5.0, "p10": 10.0, "p25": 25.0, "median": 50.0,
    "p75": 75.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9, "maximum": 100.0,
}  # fmt: skip
"""The fields of :class:`Percentiles` and what they mean, in percent."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """What is kept of every scored token; all arrays ``[n]``."""

    nll_original: _Doubles
    nll_quantized: _Doubles
    kld: _Doubles
    same_top: NDArray[np.bool_]

    def __len__(self) -> int:
        """Tokens scored."""
        return len(self.kld)

    @property
    def delta_p(self) -> _Doubles:
        """By how much the probability of the token that came rose: ``[n]``, between -1 and 1."""
        return np.exp(-self.nll_quantized) - np.exp(-self.nll_original)

    @classmethod
    def concatenate(cls, parts: Sequence[TokenScores]) -> TokenScores:
        """The scores of all parts, in order."""
        return cls(
            np.concatenate([p.nll_original for p in parts]),
            np.concatenate([p.nll_quantized for p in parts]),
            np.concatenate([p.kld for p in parts]),
            np.concatenate([p.same_top for p in parts]),
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """What ``cg verify`` reports, each with its standard error."""

    tokens: int
    """Tokens scored."""
    ppl_original: Estimate
    ppl_quantized: Estimate
    ln_ppl_ratio: Estimate
    """ln(perplexity of the quantized model / perplexity of the original)."""
    ppl_ratio: Estimate
    ppl_difference: Estimate
    mean_kld: Estimate
    """Mean Kullback-Leibler divergence of the quantized model from the original, nats per token."""
    kld: Percentiles
    mean_delta_p: Estimate
    """Mean change of the probability of the token that came; below 0 if the quantized model does worse."""
    rms_delta_p: Estimate
    """Root of the mean of its square."""
    delta_p: Percentiles
    same_top: Estimate
    """Share of tokens where both models hold the same next token for the likeliest."""


def score_tokens(original: Floats, quantized: Floats, targets: Ids) -> TokenScores:
    """Score one slab: logits ``[n, vocab]`` of both models and the ``n`` tokens that really came next.

    Raises:
        NonFiniteError: a logit is NaN or infinite.
    """
    rows = max(1, _SLAB_BYTES // (8 * original.shape[1]))
    slabs = [slice(start, start + rows) for start in range(0, len(targets), rows)]
    return TokenScores.concatenate([_score(original[s], quantized[s], targets[s]) for s in slabs])


def summarize(scores: TokenScores) -> Figures:
    """The figures over all scored tokens.

    Raises:
        UsageError: fewer than two tokens, so that there is no standard error.
        NonFiniteError: a perplexity too large for a number.
    """
    count, delta_p = len(scores), scores.delta_p
    if count < 2:
        raise UsageError(
            f"{count} scored tokens are too few for statistics", hint="use a longer text or context"
        )
    ln_original = mean_of(scores.nll_original)
    ln_quantized = mean_of(scores.nll_quantized)
    ln_ratio = mean_of(scores.nll_quantized - scores.nll_original)
    original, quantized = _exp(ln_original), _exp(ln_quantized)
    # First-order propagation: d(e^a - e^b) = e^a da - e^b db.
    difference = mean_of(quantized.value * scores.nll_quantized - original.value * scores.nll_original)
    share = float(np.mean(scores.same_top))
    return Figures(
        tokens=count,
        ppl_original=original,
        ppl_quantized=quantized,
        ln_ppl_ratio=ln_ratio,
        ppl_ratio=_exp(ln_ratio),
        ppl_difference=Estimate(quantized.value - original.value, difference.error),
        mean_kld=mean_of(scores.kld),
        kld=Percentiles.of(scores.kld),
        mean_delta_p=mean_of(delta_p),
        rms_delta_p=_root(mean_of(np.square(delta_p))),
        delta_p=Percentiles.of(delta_p),
        same_top=Estimate(share, math.sqrt(share * (1 - share) / (count - 1))),
    )


def _score(original: Floats, quantized: Floats, targets: Ids) -> TokenScores:
    same_top = original.argmax(axis=1) == quantized.argmax(axis=1)
    p, q = _log_softmax(original, "original"), _log_softmax(quantized, "quantized")
    at: tuple[Any, ...] = (np.arange(len(targets)), targets)
    nll_original, nll_quantized = -p[at], -q[at]
    np.subtract(p, q, out=q)
    np.multiply(np.exp(p, out=p), q, out=q)
    return TokenScores(nll_original, nll_quantized, q.sum(axis=1), same_top)


def _log_softmax(logits: Floats, which: str) -> _Doubles:
    if not np.isfinite(logits).all():
        raise NonFiniteError(
            f"the {which} model's output holds NaN or infinity",
            hint="is the model file damaged? see cg inspect",
        )
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def mean_of(values: _Doubles) -> Estimate:
    """The mean of ``values [n]`` over at least two independent tokens."""
    return Estimate(float(np.mean(values)), math.sqrt(float(np.var(values)) / (len(values) - 1)))


def _root(square: Estimate) -> Estimate:
    value = math.sqrt(square.value)
    return Estimate(value, square.error / (2 * value) if value else 0.0)


def _exp(exponent: Estimate) -> Estimate:
    try:
        value = math.exp(exponent.value)
    except OverflowError:
        raise NonFiniteError(
            f"the perplexity is e^{exponent.value:.0f}, too large for a number",
            hint="is the model file damaged?",
        ) from None
    return Estimate(value, value * exponent.error)
