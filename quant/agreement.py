"""Does the quantized model write what the original writes? Greedy completions of both, hole by hole.

The models decode all holes in step, layer by layer, so that a layer's weights are read once per token for
all holes and given back to the system afterwards, as in :mod:`cg.quant.streaming`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from cg.quant.passages import Prompt
from cg.quant.statistics import Estimate, mean_of
from cg.quant.steps import Steps, steps_of
from cg.quant.streaming import Side
from cg.runtime.cache import KVCache
from cg.runtime.config import GemmaConfig
from cg.runtime.sampling import SamplingOptions, make_sampler
from cg.runtime.tensor import Floats
from cg.runtime.tokenizer import Tokenizer

__all__ = [
    "Agreement",
    "Completed",
    "Decoding",
    "compare_completions",
    "complete_greedily",
    "completion_steps",
]


@dataclass(frozen=True, slots=True)
class Completed:
    """One hole and what came into it."""

    before: str
    """What stands in the hole's line before it."""
    middle: str
    """What really stands there."""
    original: str
    quantized: str
    original_tokens: int
    common_tokens: int
    """Tokens up to the first difference."""
    equal: bool
    """Whether all tokens are the same, and both models stop at the same place."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often, and how far, two models write the same."""

    equal: Estimate
    """Share of the holes that both fill with the same tokens."""
    common_tokens: Estimate
    """Mean number of tokens up to the first difference."""
    original_tokens: float
    """Mean number of tokens that the original writes."""
    completions: tuple[Completed, ...]

    @classmethod
    def of(cls, completions: Sequence[Completed]) -> Self:
        """Over at least two holes."""
        count = len(completions)
        share = sum(c.equal for c in completions) / count
        return cls(
            Estimate(share, math.sqrt(share * (1 - share) / (count - 1))),
            mean_of(np.array([c.common_tokens for c in completions], np.float64)),
            sum(c.original_tokens for c in completions) / count,
            tuple(completions),
        )


@dataclass(frozen=True, slots=True)
class Decoding:
    """How holes are filled."""

    max_tokens: int
    stop_ids: Collection[int]
    vocab_size: int
    """Entries of the tokenizer; logits beyond them are padding."""
    cache_bytes: int
    """Room for key-value caches. Holes that do not fit wait for a further pass over the weights."""


def compare_completions(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    original: Sequence[Sequence[int]],
    quantized: Sequence[Sequence[int]],
) -> list[Completed]:
    """Compare the tokens that two models wrote into the same holes."""
    return [
        Completed(
            prompt.before,
            prompt.middle,
            tokenizer.decode(a),
            tokenizer.decode(b),
            len(a),
            _common(a, b),
            list(a) == list(b),
        )
        for prompt, a, b in zip(prompts, original, quantized, strict=True)
    ]


def complete_greedily(
    side: Side, prompts: Sequence[Prompt], decoding: Decoding, steps: Steps
) -> list[list[int]]:
    """What the model writes into each hole, as ``cg complete`` does: ids up to the first stop token.

    Raises:
        NonFiniteError: a logit is NaN or infinite.
    """
    answers: list[list[int]] = []
    layers = side.model.config.num_hidden_layers
    for group in _groups(side.model.config, prompts, decoding):
        holes = [_OpenHole(side.model.config, prompt.ids, decoding) for prompt in group]
        still_open, stage = holes, f"completions, {side.name}"
        for n in range(decoding.max_tokens):
            work = layers * (sum(steps_of(len(hole.pending)) for hole in holes) if n == 0 else 1)
            _step(side, still_open)
            still_open = [hole for hole in still_open if hole.is_open]
            if still_open:
                steps.advance(stage, work)
            else:
                steps.advance(stage, work + layers * (decoding.max_tokens - n - 1))
                break
        answers += [hole.answer for hole in holes]
    side.checkpoint.release("")
    return answers


def completion_steps(config: GemmaConfig, prompts: Sequence[Prompt], decoding: Decoding) -> int:
    """The steps that :func:`complete_greedily` takes."""
    prefill = sum(steps_of(len(prompt.ids)) for prompt in prompts)
    decode = len(_groups(config, prompts, decoding)) * (decoding.max_tokens - 1)
    return config.num_hidden_layers * (prefill + decode)


class _OpenHole:
    """One sequence: its key-value cache, the tokens to compute next, and those written so far."""

    def __init__(self, config: GemmaConfig, ids: Sequence[int], decoding: Decoding) -> None:
        self.cache = KVCache(config, len(ids) + decoding.max_tokens)  # f16, as in cg complete
        self.pending = list(ids)
        self.answer: list[int] = []
        self.is_open = True
        self._decoding = decoding
        self._choose = make_sampler(SamplingOptions())

    def take(self, logits: Floats) -> None:
        """``pending`` has been computed, and these ``[vocab]`` follow."""
        self.cache.commit(self.pending)
        token = self._choose(logits[: self._decoding.vocab_size], self.cache.ids)
        self.pending = [token]
        if token not in self._decoding.stop_ids:
            self.answer.append(token)
        self.is_open = token not in self._decoding.stop_ids and len(self.answer) < self._decoding.max_tokens


def _step(side: Side, holes: Sequence[_OpenHole]) -> None:
    """One more token into every hole."""
    model = side.model
    states = [model.embed(np.array(hole.pending, np.int32)) for hole in holes]
    last = len(model.layers) - 1
    for i in range(len(model.layers)):
        for n, hole in enumerate(holes):
            states[n] = model.layer(i, states[n], hole.cache, len(hole.cache), last_only=i == last)
        side.checkpoint.release(f"model.layers.{i}.")
    logits = model.logits(np.concatenate(states))  # a row per hole: the head is read once
    for hole, row in zip(holes, logits, strict=True):
        hole.take(row)


def _groups(config: GemmaConfig, prompts: Sequence[Prompt], decoding: Decoding) -> list[Sequence[Prompt]]:
    longest = max(len(prompt.ids) for prompt in prompts) + decoding.max_tokens
    size = max(1, decoding.cache_bytes // (longest * config.kv_bytes_per_token))
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = zip(a, b, strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
