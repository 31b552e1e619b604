"""From logits to the next token: pure functions, composed by :func:`make_sampler`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.runtime.errors import NonFiniteError, SamplingError
from cg.runtime.selection import Doubles, Positions, largest, prefix_sum
from cg.runtime.tensor import Floats

__all__ = [
    "Sampler",
    "SamplingOptions",
    "apply_repetition_penalty",
    "candidates",
    "draw",
    "make_sampler",
    "nucleus",
]

Sampler = Callable[[Floats, Sequence[int]], int]
"""``(logits [vocab], ids so far) -> next id``."""

_REACH = 10.0  # the choice seldom falls on a token of less than exp(-10) of the largest weight
_SHORT = 1 / 8  # a shortlist of more tokens than that saves nothing


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to choose a token. The default is greedy: the most likely one, no penalty.

    The filters apply in this order: repetition penalty, temperature, top-k, top-p, min-p (as in
    transformers). ``seed`` makes a choice reproducible; None draws a fresh one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.temperature <= 100, "temperature", self.temperature, "between 0 and 100")
        _require(self.top_k >= 0, "top-k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p < 1, "min-p", self.min_p, "at least 0 and below 1")
        _require(
            0 < self.repetition_penalty <= 10, "repetition penalty", self.repetition_penalty, "in (0, 10]"
        )
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "0 or more")


def make_sampler(options: SamplingOptions) -> Sampler:
    """Compose the filters that ``options`` ask for.

    One random number a token falls on the probabilities laid end to end, likeliest token first, equal ones by
    lower id. Nothing is sorted but the few tokens near the place where it falls, or where top-p ends.

    The sampler raises :class:`~cg.runtime.errors.NonFiniteError` on logits that hold NaN or infinity. Minus
    infinity is no way to forbid a token: a sound model gives every token a finite logit.
    """
    # numpy.random takes 5 ms to import, which a greedy completion saves.
    generator = np.random.default_rng(options.seed) if options.temperature > 0 else None

    def sample(logits: Floats, history: Sequence[int]) -> int:
        if options.repetition_penalty != 1.0:
            logits = apply_repetition_penalty(logits, history, options.repetition_penalty)
        likeliest = _likeliest(logits)
        if generator is None:
            return likeliest
        chance = generator.random()
        ids, weights, mass = candidates(logits, float(logits[likeliest]), options, chance)
        if options.top_p < 1.0 or options.min_p > 0.0:
            kept = weights >= options.min_p
            if options.top_p < 1.0:
                kept &= nucleus(weights, options.top_p * mass)
            weights *= kept
            mass = float(weights.sum())
        return draw(ids, weights, chance * mass)

    return sample


def apply_repetition_penalty(logits: Floats, history: Sequence[int], penalty: float) -> Floats:
    """Divide positive and multiply negative logits of ids that occurred (Keskar et al. 2019, CTRL)."""
    seen = np.fromiter(history, np.intp, len(history))
    result = logits.copy()
    chosen = logits[seen]
    with np.errstate(over="ignore"):  # an infinity is refused by the sampler
        penalised = np.where(chosen > 0, chosen / np.float32(penalty), chosen * np.float32(penalty))
    result[seen] = penalised  # an id that occurred twice is written twice, with the same value
    return result


def candidates(
    logits: Floats, top: float, options: SamplingOptions, chance: float
) -> tuple[Positions | None, Doubles, float]:
    """The ids among which options and ``chance`` decide, ascending (None: all), and their weights.

    A weight is ``exp((logit - top) / temperature)``, ``top`` the largest logit. The third value is the sum
    that top-p and ``chance`` are shares of: of the weights of all tokens, or of those that top-k leaves, or
    min-p where there is no top-p.
    """
    ids, rest = _shortlist(logits, top, options)
    weights = _weights(logits if ids is None else logits[ids], top, options.temperature)
    inside = float(weights.sum())
    share = options.top_p if options.top_p < 1.0 else chance
    if rest > 0.0 and share * (inside + rest) >= inside:  # the place is among the others
        weights = _weights(logits, top, options.temperature)
        return None, weights, float(weights.sum())
    return ids, weights, inside + rest


def nucleus(weights: Doubles, mass: float) -> NDArray[np.bool_]:
    """The smallest set of largest weights whose sum reaches ``mass`` (Holtzman et al. 2020)."""
    last = prefix_sum(weights, mass, "left")
    mask: NDArray[np.bool_] = weights > weights[last]
    mask[: last + 1] |= weights[: last + 1] == weights[last]
    return mask


def draw(ids: Positions | None, weights: Doubles, at: float) -> int:
    """The id on which ``at`` falls when the weights are laid end to end, largest first, ties by lower id."""
    position = prefix_sum(weights, at, "right")
    return position if ids is None else int(ids[position])


def _likeliest(logits: Floats) -> int:
    """The id of the largest logit, the lowest one on a tie. All must be finite."""
    at = int(logits.argmax())
    # The first NaN counts as the largest for argmax, as the smallest for min; -inf is the smallest.
    if not (math.isfinite(logits[at]) and math.isfinite(logits.min())):
        raise NonFiniteError("the model's output holds NaN or infinity", hint="is the model file damaged?")
    return at


def _shortlist(logits: Floats, top: float, options: SamplingOptions) -> tuple[Positions | None, float]:
    """The likeliest ids (None: all) among which the choice probably is, and the weight of all others.

    That is 0 where the others are out of the question, because top-k or min-p removes them.
    """
    if 0 < options.top_k < len(logits):
        return largest(logits, options.top_k), 0.0
    if options.min_p > 0.0 and options.top_p == 1.0:
        reach = -options.temperature * math.log(options.min_p)
        # Lower by more than the rounding of these few operations: the exact weights decide.
        return np.flatnonzero(logits >= top - reach - 1e-6 * (abs(top) + reach)), 0.0
    head = logits >= top - _REACH * options.temperature
    if np.count_nonzero(head) > _SHORT * len(logits):
        return None, 0.0
    ids = np.flatnonzero(head)
    return ids, _weight_of_others(logits, ids, top, options.temperature)


def _weight_of_others(logits: Floats, ids: Positions, top: float, temperature: float) -> float:
    """In float32, at a fraction of the cost: it is small beside the weight of ``ids``, the likeliest."""
    # A tiny temperature makes infinities, and NaN where the logit is the largest, which is in ``ids``.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        others = (logits - np.float32(top)) / np.float32(temperature)
    np.exp(others, out=others)
    others[ids] = 0
    return float(others.sum(dtype=np.float64))


def _weights(logits: Floats, top: float, temperature: float) -> Doubles:
    weights: Doubles = np.subtract(logits, top, dtype=np.float64)
    with np.errstate(over="ignore"):  # to minus infinity, whose weight is 0
        weights /= temperature
    return np.exp(weights, out=weights)


def _require(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:  # NaN fails every comparison, so it ends here as well
        raise SamplingError(f"{name} is {value}, expected {expected}")
