"""Text in, text out, on the bundled model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import cg.runtime
from cg.runtime import ContextFile, Message, Model, SamplingOptions
from cg.runtime.errors import ContextLengthError, PromptError, SamplingError, UsageError
from cg.runtime.prompts.chat import GEMMA_TEMPLATE
from cg.runtime.sampling import Sampler
from cg.runtime.tensor import Floats

PREFIX = "import os\n\n\ndef read(path):\n    with open(path) as file:\n        return "
SUFFIX = "\n\n\ndef main():\n    pass\n"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    folder = Path(cg.runtime.__file__).parent / "demo"
    with cg.runtime.load(folder, threads=1) as loaded:
        yield loaded


def test_pieces_join_to_the_text_and_ids_decode_to_it(model: Model) -> None:
    stream = model.stream(PREFIX, SUFFIX, max_tokens=24)
    pieces = list(stream)
    result = stream.result
    assert "".join(pieces) == result.text
    assert model.tokenizer.decode(result.ids) == result.text
    assert len(result.ids) <= 24
    assert not set(result.ids) & model.stop_ids
    assert (result.stop_reason == "length") == (len(result.ids) == 24)


def test_completion_is_the_same_on_every_backend_and_from_a_warm_cache(model: Model, demo: Path) -> None:
    expected = model.complete(PREFIX, SUFFIX, max_tokens=8)
    again = model.complete(PREFIX, SUFFIX, max_tokens=8)
    assert again.ids == expected.ids
    assert again.timings.cached_tokens == again.timings.prompt_tokens - 1
    with cg.runtime.load(demo, backend="numpy") as plain:
        assert plain.complete(PREFIX, SUFFIX, max_tokens=8).ids == expected.ids


def test_modes_build_different_prompts(model: Model) -> None:
    held = []
    for mode in ("psm", "spm", "spm-prefix-first"):
        model.complete(PREFIX, SUFFIX, mode=mode, max_tokens=1)
        held.append(tuple(model.engine.cache.ids))
    assert len(set(held)) == 3
    assert all(ids[0] == model.tokenizer.bos_id and ids.count(model.tokenizer.bos_id) == 1 for ids in held)


def test_without_a_suffix_no_fim_token_is_used(model: Model) -> None:
    model.complete(PREFIX, max_tokens=1)
    fim = {model.tokenizer.control_id(t) for t in ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")}
    assert not fim & set(model.engine.cache.ids)
    model.complete(PREFIX, "", max_tokens=1)
    assert fim <= set(model.engine.cache.ids)


def test_an_empty_prompt_is_just_bos(model: Model) -> None:
    model.complete("", max_tokens=1)
    assert model.engine.cache.ids == [model.tokenizer.bos_id]


def test_stop_strings_cut_the_text(model: Model) -> None:
    whole = model.complete(PREFIX, max_tokens=40).text
    stop = whole[5:8]
    result = model.complete(PREFIX, max_tokens=40, stop=[stop])
    assert result.stop_reason == "stop_string"
    assert result.text == whole[: whole.index(stop)]


def test_sampling_is_reproducible(model: Model) -> None:
    def draw(seed: int) -> list[int]:
        return model.complete(PREFIX, max_tokens=12, sampling=SamplingOptions(temperature=1.5, seed=seed)).ids

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_what_does_not_fit_is_cut_and_noted(model: Model) -> None:
    lines = "".join(f"value_{i} = {i}\n" for i in range(2000))
    context = [ContextFile("other.py", lines)]
    stream = model.stream(lines + PREFIX, SUFFIX + lines, path="a.py", context=context, max_tokens=16)
    assert stream.notes
    result = stream.result
    assert result.notes == stream.notes
    assert result.timings.prompt_tokens + 16 <= model.engine.context_length


def test_the_context_limit_ends_a_completion(demo: Path) -> None:
    with cg.runtime.load(demo, context_length=24, threads=1) as small:
        with pytest.raises(ContextLengthError, match="no room for a prompt"):
            small.complete("x = 1", max_tokens=24)
        with pytest.raises(ContextLengthError):
            cg.runtime.load(demo, context_length=1 << 20)


def test_chat_needs_a_template_or_the_callers_word(model: Model) -> None:
    assert not model.template.has_template
    with pytest.raises(PromptError):
        model.chat([Message("user", "hello")])


def test_earlier_turns_are_not_computed_again(demo: Path) -> None:
    with cg.runtime.load(demo, threads=1) as model:
        model.use_template(GEMMA_TEMPLATE)
        question = Message("user", "def f(x):")
        first = model.chat([question], max_tokens=4).result
        answer = Message("assistant", first.text)
        second = model.chat([question, answer, Message("user", "go on")], max_tokens=4).result
        assert second.timings.cached_tokens >= first.timings.prompt_tokens
        again = cg.runtime.load(demo, threads=1)
        again.use_template(GEMMA_TEMPLATE)
        fresh = again.chat([question, answer, Message("user", "go on")], max_tokens=4).result
        assert fresh.timings.cached_tokens == 0
        assert fresh.ids == second.ids
        with pytest.raises(ContextLengthError, match="the conversation has"):
            model.chat([Message("user", "x = 1\n" * 2000)])


def test_ids_beyond_the_tokenizer_are_never_chosen(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cg.runtime.load(demo, threads=1) as model:
        wide = model.engine.generate_step

        def padded(ids: list[int], sampler: Sampler, progress: None) -> Iterator[int]:
            def choose(logits: Floats, seen: Sequence[int]) -> int:
                return sampler(np.append(logits, np.float32(1e6)), seen)

            return wide(ids, choose, progress)

        expected = model.complete(PREFIX, SUFFIX, max_tokens=4).ids
        monkeypatch.setattr(model.engine, "generate_step", padded)
        assert model.complete(PREFIX, SUFFIX, max_tokens=4).ids == expected


def test_bad_requests(model: Model) -> None:
    with pytest.raises(SamplingError):
        model.complete("x", max_tokens=0)
    with pytest.raises(UsageError):
        model.complete("x", stop=[""])


def test_a_closed_stream_has_no_result(model: Model) -> None:
    stream = model.stream(PREFIX, max_tokens=8)
    next(stream)
    stream.close()
    with pytest.raises(UsageError, match="closed"):
        _ = stream.result
    assert model.complete(PREFIX, max_tokens=2).ids  # the engine is none the worse for it


def test_closing_twice_is_harmless(demo: Path) -> None:
    loaded = cg.runtime.load(demo)
    loaded.close()
    loaded.close()
