"""Models over the same passages, layer by layer: one layer's weights are in use at a time.

All passages of a batch go through layer 1 of the original and of every other model, then through layer 2,
and so on; a layer's pages are given back to the system after use. Between layers only hidden states are
kept, float32 ``[T, hidden]`` per passage and model. Logits live for one slab of positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cg.quant.passage_store import PassageStore
from cg.quant.passages import Passage
from cg.quant.statistics import TokenScores, score_tokens
from cg.quant.steps import Steps, steps_of
from cg.runtime.config import GemmaConfig
from cg.runtime.errors import NonFiniteError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.models.gemma import Gemma
from cg.runtime.tensor import Floats

__all__ = ["Scored", "Side", "score_passages", "scoring_steps"]

_LOGITS_BYTES = 256 << 20  # per model and slab: 255 positions at 256,000 entries


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of the models."""

    name: str
    checkpoint: Checkpoint
    model: Gemma


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What one model did beside the original."""

    passages: tuple[TokenScores, ...]
    layers: tuple[float, ...]
    """Relative difference of the hidden states, first of the embeddings, then after every layer.

    ``|y - x| / |x|`` with the original's hidden state x and the other's y, Euclidean norms, mean over the
    scored positions of all passages.
    """


def score_passages(
    original: Side, others: Sequence[Side], passages: Sequence[Passage], *, hidden_bytes: int, steps: Steps
) -> list[Scored]:
    """Score every passage with each of ``others`` against the original.

    As many passages are in flight at a time as their hidden states fit ``hidden_bytes``, at least one; every
    further batch reads all weights again. The original is computed once, whatever the number of others.

    Raises:
        NonFiniteError: a hidden state or logit is NaN or infinite.
    """
    scores: list[list[TokenScores]] = [[] for _ in others]
    differences = np.zeros((len(others), original.model.config.num_hidden_layers + 1))
    per_token = 4 * original.model.config.hidden_size * (1 + len(others))
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked after every layer
        for batch in _batches(passages, hidden_bytes // per_token):
            states = _run_layers(original, others, batch, differences, steps)
            for n, passage in enumerate(batch):
                of_passage = [hidden[n][passage.scored] for hidden in states]
                for scored, new in zip(
                    scores, _score(original, others, of_passage, passage.targets), strict=True
                ):
                    scored.append(new)
                head = _head_steps(original.model.config, passage)
                steps.advance("logits", (1 + len(others)) * head)
            for side in (original, *others):
                side.checkpoint.release("")
    differences /= sum(len(passage.targets) for passage in passages)
    return [Scored(tuple(s), tuple(map(float, d))) for s, d in zip(scores, differences, strict=True)]


def scoring_steps(config: GemmaConfig, models: int, passages: Sequence[Passage]) -> int:
    """The steps that :func:`score_passages` takes for ``models`` models, the original among them."""
    layers = config.num_hidden_layers
    return models * sum(layers * steps_of(len(p)) + _head_steps(config, p) for p in passages)


def _batches(passages: Sequence[Passage], tokens: int) -> Iterator[Sequence[Passage]]:
    start, held = 0, 0
    for n, passage in enumerate(passages):
        if n > start and held + len(passage) > tokens:
            yield passages[start:n]
            start, held = n, 0
        held += len(passage)
    yield passages[start:]


def _run_layers(
    original: Side,
    others: Sequence[Side],
    batch: Sequence[Passage],
    differences: NDArray[np.float64],
    steps: Steps,
) -> list[list[Floats]]:
    """The final hidden states ``[T, hidden]`` of every side and passage; adds up their ``differences``."""
    sides = (original, *others)
    states = [[side.model.embed(passage.ids) for passage in batch] for side in sides]
    layers = len(original.model.layers)
    for side in sides:
        side.checkpoint.release("model.embed_tokens.")
    differences[:, 0] += _differences(states, batch)
    for i in range(layers):
        for side, hidden in zip(sides, states, strict=True):
            for n, x in enumerate(hidden):
                hidden[n] = side.model.layer(i, x, PassageStore(), 0)
                if not np.isfinite(hidden[n]).all():
                    raise NonFiniteError(
                        f"{side.checkpoint.folder}: NaN or infinity after layer {i + 1}",
                        hint="is the model file damaged?",
                    )
                steps.advance(f"layer {i + 1} of {layers}, {side.name}", steps_of(len(x)))
            side.checkpoint.release(f"model.layers.{i}.")
        differences[:, i + 1] += _differences(states, batch)
    return states


def _differences(states: Sequence[Sequence[Floats]], batch: Sequence[Passage]) -> list[float]:
    """The sum of ``|y - x| / |x|`` over the scored positions, for each side but the first."""
    sums = [0.0] * (len(states) - 1)
    for n, passage in enumerate(batch):
        x = states[0][n][passage.scored]
        size = np.maximum(np.linalg.norm(x, axis=1), np.finfo(np.float32).tiny)
        for other, hidden in enumerate(states[1:]):
            difference = np.linalg.norm(hidden[n][passage.scored] - x, axis=1)
            sums[other] += float(np.sum(difference / size, dtype=np.float64))
    return sums


def _score(
    original: Side, others: Sequence[Side], states: Sequence[Floats], targets: NDArray[np.int32]
) -> list[TokenScores]:
    """One passage: the scores of each of ``others``; ``states`` are those of the scored positions."""
    slab = max(1, _LOGITS_BYTES // (4 * original.model.config.vocab_size))
    scores: list[list[TokenScores]] = [[] for _ in others]
    for at in range(0, len(targets), slab):
        here = slice(at, at + slab)
        base = original.model.logits(states[0][here])
        for side, x, scored in zip(others, states[1:], scores, strict=True):
            scored.append(score_tokens(base, side.model.logits(x[here]), targets[here]))
            if len(others) > 1:  # heads are the largest tensors: no more than two at a time
                side.checkpoint.release("")
    return [TokenScores.concatenate(parts) for parts in scores]


def _head_steps(config: GemmaConfig, passage: Passage) -> int:
    """The output head over a passage's scored positions, in steps."""
    heads = config.num_attention_heads + config.num_key_value_heads
    layer = 2 * heads * config.head_dim + 3 * config.intermediate_size  # times hidden_size, as is the head
    return steps_of(round(len(passage.targets) * config.vocab_size / layer))
