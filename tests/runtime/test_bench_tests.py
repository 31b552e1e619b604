"""What is timed, how often, and with which tokens; the clock is a mock."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from cg.runtime.bench_tests import BenchOptions, BenchResult, run_tests
from cg.runtime.cache import KVCache
from cg.runtime.engine import Engine
from cg.runtime.errors import ContextLengthError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.ops import Ids
from cg.runtime.process_memory import MemoryWatch
from cg.runtime.roofline import bytes_per_token
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
    (result,) = run_tests([engine], options, clock=itertools.count().__next__)
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
    (result,) = run_tests([engine], BenchOptions((), (5,), repetitions=2), clock=itertools.count().__next__)
    assert [held for held, _ in calls] == [0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]  # the warm-up is one token
    assert all(len(ids) == 1 for _, ids in calls)
    reads = bytes_per_token(engine.model, 2)  # of its five steps, at depths 0 to 4
    assert result == BenchResult("tg5", 5, (1, 1), bytes_per_token=reads)
    assert result.time_to_first_token is None


def test_same_seed_same_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for seed in (3, 3, 4):
        calls = record_forwards(engine, monkeypatch)
        list(run_tests([engine], BenchOptions((9,), (3,), repetitions=1, seed=seed)))
        runs.append(calls)
    assert runs[0] == runs[1] != runs[2]


def test_mean_and_deviation_are_of_the_rates(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    record_forwards(engine, monkeypatch)
    (result,) = run_tests([engine], BenchOptions((), (60,), repetitions=3), clock=Clock())
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
    results = list(run_tests([engine], options, progress=lambda *step: seen.append(step)))
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
    list(run_tests([engine], BenchOptions((12,), (5,), repetitions=3), watch=watch))
    assert watch.during == 2 + 1  # forward passes: a prompt's two chunks, one token
    assert watch.samples == 6


@pytest.mark.parametrize(("prompt", "generate"), [((4, 65), (2,)), ((4,), (65,))])
def test_what_does_not_fit_is_refused_before_anything_runs(
    prompt: tuple[int, ...], generate: tuple[int, ...], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_forwards(engine, monkeypatch)
    with pytest.raises(ContextLengthError, match="65 tokens does not fit this model's context of 64"):
        list(run_tests([engine], BenchOptions(prompt, generate)))
    assert calls == []


@pytest.mark.parametrize("kind", ["prompt_sizes", "generate_sizes", "batch_sizes"])
def test_the_deepest_and_largest_test_has_to_fit(
    kind: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_forwards(engine, monkeypatch)
    sizes: dict[str, tuple[int, ...]] = {"prompt_sizes": (2,), "generate_sizes": (2,), kind: (1, 5)}
    list(run_tests([engine], BenchOptions(**sizes, depths=(0, 59), repetitions=1)))  # type: ignore[arg-type]
    calls.clear()
    with pytest.raises(
        ContextLengthError, match="5 tokens at depth 60 does not fit this model's context of 64"
    ):
        list(run_tests([engine], BenchOptions(**sizes, depths=(60, 3), repetitions=1)))  # type: ignore[arg-type]
    assert calls == []


def test_the_whole_context_fits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    record_forwards(engine, monkeypatch)
    assert len(list(run_tests([engine], BenchOptions((64,), (64,), repetitions=1)))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_sizes": (), "generate_sizes": ()}, "nothing to measure"),
        ({"depths": ()}, "nothing to measure"),
        ({"depths": (4, -1)}, "depth is -1"),
        ({"batch_sizes": (0,)}, "size of 0"),
        ({"prompt_sizes": (0,)}, "size of 0"),
        ({"generate_sizes": (-3,)}, "size of -3"),
        ({"repetitions": 0}, "0 repetitions"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BenchOptions(**options)


def test_a_depth_is_computed_once_and_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_forwards(engine, monkeypatch)
    options = BenchOptions((3,), (2,), repetitions=2, batch_sizes=(4,), depths=(10, 0))
    results = list(run_tests([engine], options, clock=itertools.count().__next__))
    assert [held for held, _ in calls] == [
        *(0, 8),  # filled with ten tokens, in two chunks
        *(10, 10, 10),  # a prompt: warm-up and two repetitions
        *(10, 10, 11, 10, 11),  # generation: one token to warm up, twice two tokens
        *(10, 10, 10, 10, 10, 10),  # passes over one and over four tokens
        *(0, 0, 0),
        *(0, 0, 1, 0, 1),
        *(0, 0, 0, 0, 0, 0),
    ]  # fmt: skip
    bos = engine.model.config.bos_token_id
    assert all(
        (ids[0] == bos) == (held == 0) for held, ids in calls
    )  # at the start of a sequence, only there
    assert [(r.test, r.depth, len(r.seconds)) for r in results] == [
        (test + suffix, depth, 2)
        for suffix, depth in (("@d10", 10), ("", 0))
        for test in ("pp3", "tg2", "batch1", "batch4")
    ]
    assert results[1].bytes_per_token == (
        (bytes_per_token(engine.model, 10) + bytes_per_token(engine.model, 11)) // 2
    )


def test_a_deeper_cache_grows_from_the_one_before(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_forwards(engine, monkeypatch)
    seen: list[tuple[str, int, int]] = []
    options = BenchOptions((), (1,), repetitions=1, depths=(4, 9))
    list(run_tests([engine], options, progress=lambda *step: seen.append(step)))
    assert [held for held, _ in calls] == [0, 4, 4, 4, 9, 9]
    assert [len(ids) for _, ids in calls] == [4, 1, 1, 5, 1, 1]
    assert seen == [
        ("fill 4/4", 0, 6), ("fill@d4", 1, 6), ("tg1@d4", 2, 6), ("tg1@d4", 3, 6),
        ("fill 9/9", 3, 6), ("fill@d9", 4, 6), ("tg1@d9", 5, 6), ("tg1@d9", 6, 6),
    ]  # fmt: skip


def test_batches_take_turns_and_are_held_against_one_token(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []

    def forward(ids: Ids, cache: KVCache, *, last_only: bool = True) -> Floats:
        assert not last_only
        assert len(cache) == 0
        widths.append(len(ids))
        return np.zeros((len(ids), engine.model.config.vocab_size), np.float32)

    monkeypatch.setattr(engine.model, "forward", forward)
    options = BenchOptions((), (), repetitions=2, batch_sizes=(8, 2, 1, 8))
    results = list(run_tests([engine], options, clock=Clock()))
    assert widths == [1, 8, 2] * 3
    assert [(r.test, r.tokens) for r in results] == [("batch1", 1), ("batch8", 8), ("batch2", 2)]
    # The clock's steps: 2, 4, 6 went to the warm-ups, then 8, 10, 12 and 14, 16, 18.
    assert [r.seconds for r in results] == [(8, 14), (10, 16), (12, 18)]
    assert [r.seconds_per_pass for r in results] == [11, 13, 15]
    assert [r.passes_of_one for r in results] == [1, 13 / 11, 15 / 11]
    assert BenchResult("tg1", 1, (2.0,)).passes_of_one is None


def test_a_batch_computes_all_logits_and_leaves_no_trace(engine: Engine) -> None:
    list(run_tests([engine], BenchOptions((), (), repetitions=1, batch_sizes=(3,), depths=(5,))))
    assert len(engine.cache) == 5


def test_engines_share_the_cache_and_the_one_with_most_threads_fills_it(
    golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoint.open(golden / "gemma-mqa-JQ4") as checkpoint:
        engines = [Engine(load_gemma(checkpoint, backend="native", threads=n)) for n in (1, 3, 2)]
        calls = [record_forwards(e, monkeypatch) for e in engines]
        events: list[str] = []
        options = BenchOptions((2,), (), repetitions=1, depths=(0, 7))
        for result in run_tests(engines, options, between=lambda: events.append("between")):
            events.append(f"{result.test} {result.threads}")
        helds = [[held for held, _ in each] for each in calls]
        # Filling finds the first token there already: every sequence begins with it.
        assert helds == [[0, 0, 7, 7], [0, 0, 1, 7, 7], [0, 0, 7, 7]]
        tests = ["pp2 1", "pp2 3", "pp2 2", "between", "pp2@d7 1", "pp2@d7 3", "pp2@d7 2"]
        assert events == ["between", *tests, "between"]
