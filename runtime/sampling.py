"""From logits to the next token: pure functions, composed by :func:`make_sampler`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.runtime.errors import NonFiniteError, SamplingError
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

_Ids = NDArray[np.intp]
_Doubles = NDArray[np.float64]


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

    The sampler raises :class:`~cg.runtime.errors.NonFiniteError` on logits that hold NaN or infinity.
    """
    # numpy.random takes 5 ms to import, which a greedy completion saves.
    generator = np.random.default_rng(options.seed) if options.temperature > 0 else None

    def sample(logits: Floats, history: Sequence[int]) -> int:
        if not np.isfinite(logits).all():
            raise NonFiniteError(
                "the model's output holds NaN or infinity", hint="is the model file damaged?"
            )
        if options.repetition_penalty != 1.0:
            logits = apply_repetition_penalty(logits, history, options.repetition_penalty)
        if generator is None:
            return int(logits.argmax())
        ids, probabilities = candidates(logits / np.float32(options.temperature), options.top_k)
        kept = nucleus(probabilities, options.top_p) & (probabilities >= options.min_p * probabilities[0])
        return draw(ids[kept], probabilities[kept], generator)

    return sample


def apply_repetition_penalty(logits: Floats, history: Sequence[int], penalty: float) -> Floats:
    """Divide positive and multiply negative logits of ids that occurred (Keskar et al. 2019, CTRL)."""
    seen = np.unique(np.asarray(history, np.intp))
    result = logits.copy()
    chosen = result[seen]
    result[seen] = np.where(chosen > 0, chosen / np.float32(penalty), chosen * np.float32(penalty))
    return result


def candidates(logits: Floats, top_k: int) -> tuple[_Ids, _Doubles]:
    """The ``top_k`` likeliest ids (0: all) and their probabilities, likeliest first; ties by lower id."""
    if 0 < top_k < len(logits):
        ids = np.sort(np.argpartition(logits, -top_k)[-top_k:])
    else:
        ids = np.arange(len(logits))
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    weights = np.exp(logits[ids].astype(np.float64) - float(logits[ids[0]]))
    return ids, weights / weights.sum()


def nucleus(probabilities: _Doubles, top_p: float) -> NDArray[np.bool_]:
    """The smallest leading set whose probability reaches ``top_p`` (Holtzman et al. 2020)."""
    before = np.cumsum(probabilities) - probabilities
    mask: NDArray[np.bool_] = before < top_p
    return mask


def draw(ids: _Ids, probabilities: _Doubles, generator: np.random.Generator) -> int:
    """One id at random, by its share of the probabilities given."""
    cumulative = np.cumsum(probabilities)
    at = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return int(ids[min(int(at), len(ids) - 1)])


def _require(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:  # NaN fails every comparison, so it ends here as well
        raise SamplingError(f"{name} is {value}, expected {expected}")
