"""Token ids in, token ids out: the ladder prefill, decode_step, generate_step, generate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from cg.runtime.cache import KVCache, KVDType
from cg.runtime.errors import ContextLengthError, PromptError
from cg.runtime.models.gemma import Gemma
from cg.runtime.sampling import Sampler, SamplingOptions, make_sampler
from cg.runtime.tensor import Floats

__all__ = ["Engine", "Progress"]

Progress = Callable[[int, int], None]
"""``(prompt tokens done, prompt tokens in all)``, after every chunk. May raise to cancel."""


class Engine:
    """A model with the key-value cache of one sequence.

    What the cache holds of a new prompt's beginning is not computed again. Interrupting a call (an
    exception from ``progress``, Ctrl-C) leaves the cache consistent.
    """

    def __init__(
        self,
        model: Gemma,
        *,
        context_length: int | None = None,
        kv_dtype: KVDType = "f16",
        prefill_chunk: int = 512,
    ) -> None:
        """``context_length`` defaults to what the model was trained for, and cannot exceed it.

        Raises:
            ContextLengthError: a context longer than the model's, or shorter than one token.
        """
        limit = model.config.max_position_embeddings
        if context_length is not None and not 1 <= context_length <= limit:
            raise ContextLengthError(f"context length {context_length}: this model takes 1 to {limit} tokens")
        self.model = model
        self.cache = KVCache(model.config, context_length or limit, kv_dtype)
        self.prefill_chunk = prefill_chunk

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.cache.capacity

    def prefill(self, ids: Sequence[int], progress: Progress | None = None) -> Floats:
        """Make the cache hold exactly ``ids`` and return the logits ``[vocab]`` after the last.

        Raises:
            PromptError: no ids, or an id outside the vocabulary.
            ContextLengthError: more ids than the context holds.
        """
        if not ids:
            raise PromptError("the prompt is empty")
        if not 0 <= min(ids) <= max(ids) < self.model.config.vocab_size:
            raise PromptError(f"a token id is outside the vocabulary of {self.model.config.vocab_size}")
        held = self.cache.reuse(ids[:-1])  # the last one is computed in any case: its logits are wanted
        self.cache.check_room(len(ids) - held)
        while True:
            chunk = ids[held : held + self.prefill_chunk]
            logits = self._forward(chunk)
            held += len(chunk)
            if progress is not None:
                progress(held, len(ids))
            if held == len(ids):
                return logits

    def decode_step(self, token: int) -> Floats:
        """Append one token and return the logits ``[vocab]`` after it."""
        self.cache.check_room(1)
        return self._forward([token])

    def generate_step(
        self, ids: Sequence[int], sampler: Sampler, progress: Progress | None = None
    ) -> Iterator[int]:
        """Tokens after the prompt ``ids``, one at a time, until the context is full."""
        history = list(ids)
        logits = self.prefill(ids, progress)
        while True:
            token = sampler(logits, history)
            history.append(token)
            yield token
            if len(history) > self.context_length:
                return
            logits = self.decode_step(token)

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int,
        stop_ids: Collection[int] = (),
        sampling: SamplingOptions | None = None,
    ) -> list[int]:
        """The ids that follow ``ids``, at most ``max_tokens``, up to but without the first stop id."""
        result: list[int] = []
        if max_tokens < 1:
            return result
        for token in self.generate_step(ids, make_sampler(sampling or SamplingOptions())):
            if token in stop_ids:
                break
            result.append(token)
            if len(result) == max_tokens:
                break
        return result

    def _forward(self, ids: Sequence[int]) -> Floats:
        logits: Floats = self.model.forward(np.asarray(ids, np.int32), self.cache)[0]
        self.cache.commit(ids)
        return logits
