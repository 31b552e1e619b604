"""What is timed, how often, and with which tokens; the clock is a mock."""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from cg.runtime.bench import BenchOptions, BenchResult, bench_engine, bench_model
from cg.runtime.cache import KVCache
from cg.runtime.engine import Engine
from cg.runtime.errors import ContextLengthError, TokenizerError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.ops import Ids
from cg.runtime.process_memory import MemoryWatch
from cg.runtime.tensor import Floats


@pytest.fixture
def engine(golden: Path) -> Iterator[Engine]:
    with Checkpoint.open(golden / "gemma-mqa") as checkpoint:
        yield Engine(load_gemma(checkpoint, backend="numpy"), context_length=64, prefill_chunk=8)


class Clock:
    """Every look at it costs a second more than the last."""

    def __init__(self) -> None:
        self.now, self.looks = 0.0, 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += self.looks
        return self.now


def record_forwards(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """Every forward pass as (tokens in the cache before, ids)."""
    calls: list[tuple[int, list[int]]] = []

    def forward(ids: Ids, cache: KVCache, **options: Any) -> Floats:
        calls.append((len(cache), ids.tolist()))
        return np.zeros((1, engine.model.config.vocab_size), np.float32)

    monkeypatch.setattr(engine.model, "forward", forward)
    return calls


def test_a_prompt_is_read_from_an_empty_cache_every_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_forwards(engine, monkeypatch)
    options = BenchOptions((12,), (), repetitions=3)
    (result,) = bench_engine(engine, options, clock=itertools.count().__next__)
    assert (result.test, result.tokens) == ("pp12", 12)
    assert [held for held, _ in calls] == [0, 8] * 4  # one warm-up, three repetitions, two chunks each
    prompts = [first + second for (_, first), (_, second) in zip(calls[::2], calls[1::2], strict=True)]
    assert all(len(p) == 12 and p[0] == engine.model.config.bos_token_id for p in prompts)
    assert len({tuple(p) for p in prompts}) == 4
    # Three looks at the clock per run: start, logits, token.
    assert result.seconds == (1, 1, 1)
    assert result.first_token_seconds == (2, 2, 2)


def test_generation_is_one_token_at_a_time_from_an_empty_cache(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_forwards(engine, monkeypatch)
    (result,) = bench_engine(engine, BenchOptions((), (5,), repetitions=2), clock=itertools.count().__next__)
    assert [held for held, _ in calls] == [0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]  # the warm-up is one token
    assert all(len(ids) == 1 for _, ids in calls)
    assert result == BenchResult("tg5", 5, (1, 1))
    assert result.time_to_first_token is None


def test_same_seed_same_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for seed in (3, 3, 4):
        calls = record_forwards(engine, monkeypatch)
        list(bench_engine(engine, BenchOptions((9,), (3,), repetitions=1, seed=seed)))
        runs.append(calls)
    assert runs[0] == runs[1] != runs[2]


def test_mean_and_deviation_are_of_the_rates(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    record_forwards(engine, monkeypatch)
    (result,) = bench_engine(engine, BenchOptions((), (60,), repetitions=3), clock=Clock())
    assert result.seconds == (4, 6, 8)  # 2 went to the warm-up
    assert result.rates == (15, 10, 7.5)
    assert result.tokens_per_second == pytest.approx(statistics.mean([15, 10, 7.5]))
    assert result.deviation == pytest.approx(math.sqrt(sum((r - 32.5 / 3) ** 2 for r in (15, 10, 7.5)) / 2))
    assert BenchResult("tg1", 1, (2.0,)).deviation == 0


def test_prompts_come_first_and_progress_counts_every_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_forwards(engine, monkeypatch)
    seen: list[tuple[str, int, int]] = []
    options = BenchOptions((4, 8), (2,), repetitions=2)
    results = list(bench_engine(engine, options, progress=lambda *step: seen.append(step)))
    assert [r.test for r in results] == ["pp4", "pp8", "tg2"]
    tests = [test for test in ("pp4", "pp8", "tg2") for _ in range(3)]
    assert seen == [(test, i + 1, 9) for i, test in enumerate(tests)]


class Watch(MemoryWatch):
    """Notes how often it was entered and sampled, and runs no thread."""

    def __init__(self, calls: list[tuple[int, list[int]]]) -> None:
        super().__init__()
        self.calls, self.during, self.samples = calls, 0, 0

    def sample(self) -> None:
        self.samples += 1

    def __enter__(self) -> Self:
        self.during -= len(self.calls)
        return self

    def __exit__(self, *error: object) -> None:
        self.during += len(self.calls)


def test_memory_is_watched_in_warm_ups_and_read_after_each_repetition(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(record_forwards(engine, monkeypatch))
    list(bench_engine(engine, BenchOptions((12,), (5,), repetitions=3), watch=watch))
    assert watch.during == 2 + 1  # forward passes: a prompt's two chunks, one token
    assert watch.samples == 6


@pytest.mark.parametrize(("prompt", "generate"), [((4, 65), (2,)), ((4,), (65,))])
def test_what_does_not_fit_is_refused_before_anything_runs(
    prompt: tuple[int, ...], generate: tuple[int, ...], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_forwards(engine, monkeypatch)
    with pytest.raises(ContextLengthError, match="65 tokens does not fit this model's context of 64"):
        list(bench_engine(engine, BenchOptions(prompt, generate)))
    assert calls == []


def test_the_whole_context_fits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    record_forwards(engine, monkeypatch)
    assert len(list(bench_engine(engine, BenchOptions((64,), (64,), repetitions=1)))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_sizes": (), "generate_sizes": ()}, "nothing to measure"),
        ({"prompt_sizes": (0,)}, "size of 0"),
        ({"generate_sizes": (-3,)}, "size of -3"),
        ({"repetitions": 0}, "0 repetitions"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BenchOptions(**options)


def test_report_on_a_real_model(golden: Path) -> None:
    report = bench_model(golden / "gemma-mqa-JQ4", BenchOptions((8,), (2,), repetitions=2), backend="numpy")
    with Checkpoint.open(golden / "gemma-mqa") as original:
        assert report.parameters == sum(t.size for t in original.tensors.values())
    assert (report.model, report.type) == ("gemma-mqa-JQ4", "Q4")
    file = golden / "gemma-mqa-JQ4" / "model.safetensors"
    assert 0 < file.stat().st_size - report.size < 10_000  # the rest is the header
    assert (report.backend, report.activations, report.threads) == ("numpy", "f32", 1)
    assert report.load_seconds > 0
    assert report.tokenizer_seconds is not None
    assert report.peak_memory is not None
    assert report.peak_memory.bytes > 10 << 20
    pp, tg = report.results
    assert min(*pp.seconds, *tg.seconds) > 0
    assert pp.time_to_first_token is not None
    assert pp.time_to_first_token > statistics.fmean(pp.seconds)


def test_a_tokenizer_is_timed_if_it_is_there(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden / "gemma-mqa" / name, folder)
    options = BenchOptions((2,), (), repetitions=1)
    assert bench_model(folder, options, backend="numpy").tokenizer_seconds is None
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError):
        bench_model(folder, options, backend="numpy")
