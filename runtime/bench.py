"""Speed and memory of a model, in llama-bench's terms.

``ppN``: a prompt of N random tokens into an empty cache, logits of the last one. ``tgN``: N tokens one at a
time from an empty cache, random ones in place of sampled ones. Neither tokenizing nor sampling is in it. Each
is run once to warm up (one token of a tg) and then repeated; mean and standard deviation are of the
repetitions' tokens per second.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cg.runtime.engine import Engine
from cg.runtime.errors import ContextLengthError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.ops import Activations, Backend
from cg.runtime.process_memory import Memory, MemoryWatch
from cg.runtime.sampling import SamplingOptions, make_sampler
from cg.runtime.tokenizer import Tokenizer

__all__ = ["BenchOptions", "BenchReport", "BenchResult", "Clock", "Progress", "bench_engine", "bench_model"]

Clock = Callable[[], float]
"""Seconds, from any start."""
Progress = Callable[[str, int, int], None]
"""``(test, runs done, runs in all)``, warm-ups counted as runs. May raise to cancel."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure.

    Raises:
        UsageError: nothing to measure, or an impossible size or number of repetitions.
    """

    prompt_sizes: tuple[int, ...] = (512,)
    generate_sizes: tuple[int, ...] = (128,)
    repetitions: int = 5
    seed: int = 0
    """Of the random tokens."""

    def __post_init__(self) -> None:
        sizes = self.prompt_sizes + self.generate_sizes
        if not sizes:
            raise UsageError("nothing to measure", hint="give a prompt size (-p) or a generation size (-n)")
        if min(sizes) < 1:
            raise UsageError(f"a size of {min(sizes)} tokens cannot be measured")
        if self.repetitions < 1:
            raise UsageError(f"{self.repetitions} repetitions, expected 1 or more")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, expected 0 or more")


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The repetitions of one test."""

    test: str
    """``pp512``, ``tg128`` …"""
    tokens: int
    seconds: tuple[float, ...]
    """Per repetition."""
    first_token_seconds: tuple[float, ...] = ()
    """Per repetition of a prompt test: until the first token is chosen."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Tokens per second, per repetition."""
        return tuple(self.tokens / s for s in self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """Mean of the rates."""
        return statistics.fmean(self.rates)

    @property
    def deviation(self) -> float:
        """Standard deviation of the rates (n - 1); 0 for a single repetition."""
        return statistics.stdev(self.rates) if len(self.seconds) > 1 else 0.0

    @property
    def time_to_first_token(self) -> float | None:
        """Mean seconds from the prompt to the first token; None for a generation test."""
        return statistics.fmean(self.first_token_seconds) if self.first_token_seconds else None


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All tests on one model."""

    model: str
    """Name of its folder."""
    type: str
    """The element type that most weights have."""
    size: int
    """Bytes of all tensors, scales included."""
    parameters: int
    backend: str
    isa: str
    threads: int
    activations: str
    load_seconds: float
    """Until the model could compute: the files are mapped and checked, not read."""
    tokenizer_seconds: float | None
    """Loading the tokenizer; None for a folder without one."""
    peak_memory: Memory | None
    results: tuple[BenchResult, ...]


def bench_model(
    folder: Path,
    options: BenchOptions | None = None,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    activations: Activations | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> BenchReport:
    """Load a folder and measure.

    Raises:
        ContextLengthError: a size that the model's context does not hold.
        FormatError: a file is missing or malformed.
        BackendError: the backend is not available here.
    """
    options = options or BenchOptions()
    started = clock()
    with Checkpoint.open(folder) as checkpoint:
        model = load_gemma(checkpoint, backend=backend, threads=threads, activations=activations)
        loaded = clock()
        tokenizer_seconds = _load_tokenizer(folder, clock)
        watch = MemoryWatch()
        results = tuple(bench_engine(Engine(model), options, watch=watch, progress=progress, clock=clock))
        tensors = checkpoint.tensors.values()
        types: Counter[str] = Counter()
        for tensor in tensors:
            types[tensor.dtype.value] += tensor.size
        return BenchReport(
            model=folder.resolve().name,
            type=types.most_common(1)[0][0],
            size=sum(t.nbytes for t in tensors),
            parameters=types.total(),
            backend=model.ops.name,
            isa=model.ops.isa,
            threads=model.ops.threads,
            activations=model.ops.activations,
            load_seconds=loaded - started,
            tokenizer_seconds=tokenizer_seconds,
            peak_memory=watch.peak,
            results=results,
        )


def bench_engine(
    engine: Engine,
    options: BenchOptions,
    *,
    watch: MemoryWatch | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> Iterator[BenchResult]:
    """Run the tests on an engine, prompts first, and yield each test's result.

    ``watch`` is entered for warm-ups only, so that its thread costs the repetitions nothing.

    Raises:
        ContextLengthError: a size that the engine's context does not hold.
    """
    largest = max(options.prompt_sizes + options.generate_sizes)
    if largest > engine.context_length:
        raise ContextLengthError(
            f"a test of {largest} tokens does not fit this model's context of {engine.context_length}"
        )
    watch = watch or MemoryWatch()
    steps = _Steps(progress, options)
    rng = np.random.default_rng(options.seed)
    for size in options.prompt_sizes:
        with watch:
            _prompt(engine, _random_ids(engine, rng, size), clock)
        steps.advance(f"pp{size}")
        pairs = []
        for _ in range(options.repetitions):
            pairs.append(_prompt(engine, _random_ids(engine, rng, size), clock))
            watch.sample()
            steps.advance(f"pp{size}")
        yield BenchResult(f"pp{size}", size, tuple(p for p, _ in pairs), tuple(f for _, f in pairs))
    for size in options.generate_sizes:
        with watch:
            _generation(engine, _random_ids(engine, rng, 1), clock)
        steps.advance(f"tg{size}")
        seconds = []
        for _ in range(options.repetitions):
            seconds.append(_generation(engine, _random_ids(engine, rng, size), clock))
            watch.sample()
            steps.advance(f"tg{size}")
        yield BenchResult(f"tg{size}", size, tuple(seconds))


def _prompt(engine: Engine, ids: list[int], clock: Clock) -> tuple[float, float]:
    """Seconds until the logits are there, and until a token is chosen from them."""
    choose = make_sampler(SamplingOptions())
    engine.cache.truncate(0)
    started = clock()
    logits = engine.prefill(ids)
    prefilled = clock()
    choose(logits, ids)
    return prefilled - started, clock() - started


def _generation(engine: Engine, ids: list[int], clock: Clock) -> float:
    """Seconds for one decoding step per id."""
    engine.cache.truncate(0)
    started = clock()
    for token in ids:
        engine.decode_step(token)
    return clock() - started


def _random_ids(engine: Engine, rng: np.random.Generator, size: int) -> list[int]:
    config = engine.model.config
    ids: list[int] = rng.integers(config.vocab_size, size=size - 1).tolist()
    return [config.bos_token_id, *ids]


def _load_tokenizer(folder: Path, clock: Clock) -> float | None:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return None  # random ids need no tokenizer
    started = clock()
    Tokenizer.load(folder)
    return clock() - started


class _Steps:
    """Counts runs and tells the progress."""

    def __init__(self, progress: Progress | None, options: BenchOptions) -> None:
        tests = len(options.prompt_sizes) + len(options.generate_sizes)
        self._total = tests * (options.repetitions + 1)
        self._done = 0
        self._progress = progress

    def advance(self, test: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(test, self._done, self._total)
