"""The decoding ladder on a scripted model: loop logic without arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cg.runtime.cache import KVCache
from cg.runtime.config import GemmaConfig
from cg.runtime.engine import Engine
from cg.runtime.errors import ContextLengthError, NonFiniteError, PromptError
from cg.runtime.sampling import SamplingOptions, make_sampler

VOCAB = 50


class ScriptedModel:
    """Predicts ``(last id + 1) % VOCAB`` and records what it was asked to compute."""

    def __init__(self, context: int = 32) -> None:
        self.config = GemmaConfig.from_json(
            dict(
                model_type="gemma",
                vocab_size=VOCAB,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                head_dim=8,
                max_position_embeddings=context,
            )
        )
        self.calls: list[list[int]] = []
        self.poison = False

    def forward(self, ids: np.ndarray, cache: KVCache) -> np.ndarray:
        self.calls.append(ids.tolist())
        logits = np.zeros((1, VOCAB), np.float32)
        logits[0, (int(ids[-1]) + 1) % VOCAB] = np.nan if self.poison else 1
        return logits


def make(context: int = 32, **options: int) -> tuple[Engine, ScriptedModel]:
    model = ScriptedModel(context)
    return Engine(model, **options), model  # type: ignore[arg-type]


def greedy() -> object:
    return make_sampler(SamplingOptions())


def test_generate_counts_up_and_stops_before_a_stop_id() -> None:
    engine, _ = make()
    assert engine.generate([2, 3], max_tokens=4) == [4, 5, 6, 7]
    assert engine.generate([2, 3], max_tokens=9, stop_ids={6}) == [4, 5]
    assert engine.generate([2, 3], max_tokens=0) == []


def test_prompt_goes_in_in_chunks_and_reports_progress() -> None:
    engine, model = make(prefill_chunk=4)
    seen: list[tuple[int, int]] = []
    engine.prefill(list(range(10)), lambda done, total: seen.append((done, total)))
    assert [len(c) for c in model.calls] == [4, 4, 2]
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_a_common_prefix_is_not_computed_again() -> None:
    engine, model = make()
    engine.prefill([1, 2, 3, 4])
    model.calls.clear()
    engine.prefill([1, 2, 9, 8])
    assert model.calls == [[9, 8]]
    assert engine.cache.ids == [1, 2, 9, 8]


def test_the_same_prompt_computes_its_last_token_only() -> None:
    engine, model = make()
    engine.prefill([1, 2, 3])
    model.calls.clear()
    engine.prefill([1, 2, 3])
    assert model.calls == [[3]]
    engine.prefill([1, 2])  # shorter than what is held
    assert engine.cache.ids == [1, 2]


def test_generation_does_not_repeat_the_forward_of_the_last_token() -> None:
    engine, model = make()
    engine.generate([5], max_tokens=3)
    assert model.calls == [[5], [6], [7]]


def test_an_interrupted_prompt_leaves_the_cache_usable() -> None:
    engine, model = make(prefill_chunk=2)

    def cancel(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.prefill([1, 2, 3, 4, 5, 6], cancel)
    assert engine.cache.ids == [1, 2, 3, 4]
    model.calls.clear()
    engine.prefill([1, 2, 3, 4, 5, 6])
    assert model.calls == [[5, 6]]


def test_the_context_ends_generation_and_refuses_long_prompts() -> None:
    engine, _ = make(context=6)
    tokens = list(engine.generate_step([1, 2, 3, 4], make_sampler(SamplingOptions())))
    assert tokens == [5, 6, 7]  # two fill the context, one more is predicted after the last slot
    with pytest.raises(ContextLengthError, match="7 tokens do not fit the context of 6"):
        engine.prefill(list(range(7)))
    with pytest.raises(ContextLengthError, match="1 to 6"):
        make(context=6, context_length=7)


@pytest.mark.parametrize("ids", [[], [0, VOCAB], [-1]])
def test_impossible_prompts_are_refused(ids: Sequence[int]) -> None:
    engine, _ = make()
    with pytest.raises(PromptError):
        engine.prefill(ids)


def test_nan_logits_are_an_error_not_a_token() -> None:
    engine, model = make()
    model.poison = True
    with pytest.raises(NonFiniteError):
        engine.generate([1], max_tokens=1)
