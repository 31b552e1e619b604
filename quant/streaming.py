"""Two models over the same chunks of tokens, layer by layer: one layer's weights are in use at a time.

All chunks of a batch go through layer 1 of the original and of the quantized model, then through layer 2,
and so on; a layer's pages are given back to the system after use. Between layers only hidden states are
kept, float32 ``[context, hidden]`` per chunk and model. Logits live for one slab of positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.quant.evaluation_text import Chunks
from cg.quant.statistics import TokenScores, score_tokens
from cg.runtime.errors import NonFiniteError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.models.gemma import Gemma
from cg.runtime.tensor import Floats

__all__ = ["Progress", "Side", "score_chunks"]

Progress = Callable[[str, int, int], None]
"""``(what is being computed, steps done, steps in all)``. May raise to cancel."""

_LOGITS_BYTES = 256 << 20  # per model and slab: the scored half of a chunk at 256,000 entries


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of the two models."""

    name: str
    checkpoint: Checkpoint
    model: Gemma

    def release(self, prefix: str) -> None:
        """Give the pages of all tensors whose names begin with ``prefix`` back to the system."""
        for shard in self.checkpoint.shards:
            for entry in shard.header.entries:
                if entry.name.startswith(prefix):
                    shard.release(entry.begin, entry.end)


def score_chunks(
    original: Side, quantized: Side, chunks: Chunks, *, hidden_bytes: int, progress: Progress | None = None
) -> TokenScores:
    """Score the second half of every chunk.

    As many chunks are in flight at a time as their hidden states fit ``hidden_bytes``, at least one; every
    further batch reads all weights again.

    Raises:
        NonFiniteError: a hidden state or logit is NaN or infinite.
    """
    config = original.model.config
    per_chunk = 2 * 4 * chunks.context * config.hidden_size
    batch = max(1, hidden_bytes // per_chunk)
    steps = _Steps(original.model, chunks, progress)
    scores: list[TokenScores] = []
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked after every layer
        for start in range(0, len(chunks), batch):
            scores += _score_batch(
                original, quantized, chunks, range(start, min(start + batch, len(chunks))), steps
            )
    return TokenScores.concatenate(scores)


def _score_batch(
    original: Side, quantized: Side, chunks: Chunks, batch: range, steps: _Steps
) -> list[TokenScores]:
    sides = (original, quantized)
    states = [[side.model.embed(chunks.ids[c]) for c in batch] for side in sides]
    layers = len(original.model.layers)
    for side in sides:
        side.release("model.embed_tokens.")
    for i in range(layers):
        for side, hidden in zip(sides, states, strict=True):
            steps.stage = f"layer {i + 1} of {layers}, {side.name}"
            for n, x in enumerate(hidden):
                hidden[n] = side.model.layer(i, x, _ChunkStore(), 0)
                if not np.isfinite(hidden[n]).all():
                    raise NonFiniteError(
                        f"{side.checkpoint.folder}: NaN or infinity after layer {i + 1}",
                        hint="is the model file damaged?",
                    )
                steps.advance(1)
            side.release(f"model.layers.{i}.")
    scored = slice(chunks.first, chunks.context - 1)
    scores = []
    for n, chunk in enumerate(batch):
        steps.stage = "logits"
        scores += _score_chunk(
            original, quantized, states[0][n][scored], states[1][n][scored], chunks.targets(chunk)
        )
        steps.advance(2 * steps.head)
    for side in sides:
        side.release("")
    return scores


def _score_chunk(
    original: Side, quantized: Side, x: Floats, y: Floats, targets: NDArray[np.int32]
) -> list[TokenScores]:
    slab = max(1, _LOGITS_BYTES // (4 * original.model.config.vocab_size))
    return [
        score_tokens(
            original.model.logits(x[at : at + slab]),
            quantized.model.logits(y[at : at + slab]),
            targets[at : at + slab],
        )
        for at in range(0, len(targets), slab)
    ]


class _ChunkStore:
    """Keys and values of one layer and one chunk, in float32: all that a layer needs of a whole chunk."""

    def store(
        self, layer: int, position: int, keys: Floats, values: Floats
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.ascontiguousarray(keys.transpose(1, 0, 2)), np.ascontiguousarray(values.transpose(1, 0, 2))


class _Steps:
    """Counts steps of about the same cost, a layer over a chunk each, and tells the progress."""

    def __init__(self, model: Gemma, chunks: Chunks, progress: Progress | None) -> None:
        config = model.config
        heads = config.num_attention_heads + config.num_key_value_heads
        layer_cost = (
            (2 * heads * config.head_dim + 3 * config.intermediate_size) * config.hidden_size * chunks.context
        )
        head_cost = config.vocab_size * config.hidden_size * chunks.scored
        self.head = max(1, round(head_cost / layer_cost))  # in steps
        self.stage = ""
        self._done = 0
        self._total = 2 * len(chunks) * (config.num_hidden_layers + self.head)
        self._progress = progress

    def advance(self, steps: int) -> None:
        self._done += steps
        if self._progress is not None:
            self._progress(self.stage, self._done, self._total)
