"""The tests of a benchmark, in llama-bench's terms.

``ppN``: a prompt of N random tokens, logits of the last one. ``tgN``: N tokens one at a time, random ones in
place of sampled ones. ``batchN``: one forward pass over N tokens with the logits of all of them, as checking
guessed tokens makes it; one token is always measured with it. ``@dD``: with D tokens in the cache already,
which are computed once and not counted. Neither tokenizing nor sampling is in a test. Each is run once to
warm up (one token of a tg) and then repeated; mean and standard deviation are of the repetitions' tokens per
second.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cg.runtime.engine import Engine
from cg.runtime.errors import ContextLengthError, UsageError
from cg.runtime.process_memory import MemoryWatch
from cg.runtime.roofline import bytes_per_token
from cg.runtime.sampling import SamplingOptions, make_sampler

__all__ = ["BenchOptions", "BenchResult", "Clock", "Progress", "run_tests"]

Clock = Callable[[], float]
"""Seconds, from any start."""
Progress = Callable[[str, int, int], None]
"""``(test, runs done, runs in all)``, warm-ups counted as runs. May raise to cancel."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure.

    Raises:
        UsageError: nothing to measure, or an impossible size, depth or number of repetitions.
    """

    prompt_sizes: tuple[int, ...] = (512,)
    generate_sizes: tuple[int, ...] = (128,)
    repetitions: int = 5
    seed: int = 0
    """Of the random tokens."""
    batch_sizes: tuple[int, ...] = ()
    depths: tuple[int, ...] = (0,)
    """Tokens in the cache when a test begins; every test is run at every depth."""

    def __post_init__(self) -> None:
        sizes = self.prompt_sizes + self.generate_sizes + self.batch_sizes
        if not sizes or not self.depths:
            raise UsageError(
                "nothing to measure", hint="give a prompt size (-p), a generation size (-n) or a batch (-b)"
            )
        if min(sizes) < 1:
            raise UsageError(f"a size of {min(sizes)} tokens cannot be measured")
        if min(self.depths) < 0:
            raise UsageError(f"depth is {min(self.depths)}, expected 0 or more tokens")
        if self.repetitions < 1:
            raise UsageError(f"{self.repetitions} repetitions, expected 1 or more")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, expected 0 or more")


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The repetitions of one test."""

    test: str
    """``pp512``, ``tg128@d4096``, ``batch4`` …"""
    tokens: int
    seconds: tuple[float, ...]
    """Per repetition."""
    first_token_seconds: tuple[float, ...] = ()
    """Per repetition of a prompt test: until the first token is chosen."""
    depth: int = 0
    threads: int = 1
    bytes_per_token: int | None = None
    """What a step of a generation test reads, on average over its steps."""
    one_token_seconds: float | None = None
    """Mean time of a pass over one token, measured in turns with this batch; None for other tests."""

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
        """Mean seconds from the prompt to the first token; None for other tests."""
        return statistics.fmean(self.first_token_seconds) if self.first_token_seconds else None

    @property
    def seconds_per_pass(self) -> float | None:
        """Mean seconds of a batch's forward pass; None for other tests."""
        return None if self.one_token_seconds is None else statistics.fmean(self.seconds)

    @property
    def passes_of_one(self) -> float | None:
        """A batch's forward pass in passes over one token: how many tokens of it must be right to gain."""
        if self.one_token_seconds is None:
            return None
        return statistics.fmean(self.seconds) / self.one_token_seconds


def run_tests(
    engines: Sequence[Engine],
    options: BenchOptions,
    *,
    watch: MemoryWatch | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
    between: Callable[[], None] = lambda: None,
) -> Iterator[BenchResult]:
    """Run the tests and yield each one's result: by depth, then engine, then prompts, generations, batches.

    The engines are the same model with different numbers of threads; from here on they share one cache.
    ``watch`` is entered for warm-ups only, so that its thread costs the repetitions nothing. ``between`` is
    called before the tests of every depth, and after the last.

    Raises:
        ContextLengthError: a test that the engines' context does not hold.
    """
    _check_room(engines[0], options)
    for engine in engines[1:]:
        engine.cache = engines[0].cache  # so that it has to be filled once only
    watch = watch or MemoryWatch()
    steps = _Steps(progress, options, len(engines))
    rng = np.random.default_rng(options.seed)
    filling = _random_ids(engines[0], rng, 0, max(options.depths))
    quickest = max(engines, key=lambda engine: engine.model.ops.threads)
    for depth in options.depths:
        between()
        if depth:
            with watch:
                quickest.prefill(filling[:depth], lambda done, total: steps.tell(f"fill {done}/{total}"))
            steps.advance(f"fill@d{depth}")
        for engine in engines:
            tests = _Tests(engine, filling[:depth], options.repetitions, rng, watch, clock, steps)
            yield from (tests.prompt(size) for size in options.prompt_sizes)
            yield from (tests.generation(size) for size in options.generate_sizes)
            yield from tests.batches(options.batch_sizes)
    between()


class _Tests:
    """The tests of one engine at one depth."""

    def __init__(
        self,
        engine: Engine,
        held: list[int],
        repetitions: int,
        rng: np.random.Generator,
        watch: MemoryWatch,
        clock: Clock,
        steps: _Steps,
    ) -> None:
        self._engine, self._held, self._repetitions = engine, held, repetitions
        self._rng, self._watch, self._clock, self._steps = rng, watch, clock, steps
        self._suffix = f"@d{len(held)}" if held else ""
        self._threads = engine.model.ops.threads

    def prompt(self, size: int) -> BenchResult:
        test = f"pp{size}{self._suffix}"
        with self._watch:
            self._prompt(size)
        self._steps.advance(test)
        pairs = []
        for _ in range(self._repetitions):
            pairs.append(self._prompt(size))
            self._watch.sample()
            self._steps.advance(test)
        prefilled, chosen = zip(*pairs, strict=True)
        return BenchResult(test, size, prefilled, chosen, depth=len(self._held), threads=self._threads)

    def generation(self, size: int) -> BenchResult:
        test, depth = f"tg{size}{self._suffix}", len(self._held)
        with self._watch:
            self._generation(1)
        self._steps.advance(test)
        seconds = []
        for _ in range(self._repetitions):
            seconds.append(self._generation(size))
            self._watch.sample()
            self._steps.advance(test)
        model = self._engine.model
        reads = (bytes_per_token(model, depth) + bytes_per_token(model, depth + size - 1)) // 2
        return BenchResult(
            test, size, tuple(seconds), depth=depth, threads=self._threads, bytes_per_token=reads
        )

    def batches(self, sizes: Sequence[int]) -> Iterator[BenchResult]:
        """All sizes in turns, so that their ratios do not depend on what else the machine does meanwhile."""
        seconds = _batches(sizes)
        for size in seconds:
            with self._watch:
                self._pass(size)
            self._steps.advance(f"batch{size}{self._suffix}")
        for _ in range(self._repetitions):
            for size, times in seconds.items():
                times.append(self._pass(size))
                self._watch.sample()
                self._steps.advance(f"batch{size}{self._suffix}")
        for size, times in seconds.items():
            yield BenchResult(
                f"batch{size}{self._suffix}", size, tuple(times), depth=len(self._held),
                threads=self._threads, one_token_seconds=statistics.fmean(seconds[1]),
            )  # fmt: skip

    def _prompt(self, size: int) -> tuple[float, float]:
        """Seconds until the logits are there, and until a token is chosen from them."""
        choose, ids = make_sampler(SamplingOptions()), self._held + self._ids(size)
        started = self._clock()
        logits = self._engine.prefill(ids)
        prefilled = self._clock()
        choose(logits, ids)
        return prefilled - started, self._clock() - started

    def _generation(self, size: int) -> float:
        """Seconds for one decoding step per token."""
        ids = self._ids(size)
        started = self._clock()
        for token in ids:
            self._engine.decode_step(token)
        return self._clock() - started

    def _pass(self, size: int) -> float:
        """Seconds for the logits of all tokens of one forward pass."""
        ids = np.asarray(self._ids(size), np.int32)
        started = self._clock()
        self._engine.model.forward(ids, self._engine.cache, last_only=False)
        return self._clock() - started

    def _ids(self, size: int) -> list[int]:
        """Fresh random tokens, and a cache that holds what this depth asks for."""
        self._engine.cache.truncate(len(self._held))
        return _random_ids(self._engine, self._rng, len(self._held), size)


def _batches(sizes: Sequence[int]) -> dict[int, list[float]]:
    """The sizes to measure, one token first, with room for their times."""
    return {size: [] for size in (1, *sizes)} if sizes else {}


def _random_ids(engine: Engine, rng: np.random.Generator, position: int, size: int) -> list[int]:
    """``size`` tokens at a position; a sequence begins with the token that every sequence begins with."""
    config = engine.model.config
    ids: list[int] = rng.integers(config.vocab_size, size=size).tolist()
    return [config.bos_token_id, *ids[1:]] if ids and position == 0 else ids


def _check_room(engine: Engine, options: BenchOptions) -> None:
    size, depth = (
        max(options.prompt_sizes + options.generate_sizes + options.batch_sizes),
        max(options.depths),
    )
    if depth + size > engine.context_length:
        where = f" at depth {depth}" if depth else ""
        raise ContextLengthError(
            f"a test of {size} tokens{where} does not fit this model's context of {engine.context_length}"
        )


class _Steps:
    """Counts runs and tells the progress."""

    def __init__(self, progress: Progress | None, options: BenchOptions, engines: int) -> None:
        tests = len(options.prompt_sizes) + len(options.generate_sizes) + len(_batches(options.batch_sizes))
        filled = sum(depth > 0 for depth in options.depths)
        self._total = filled + len(options.depths) * engines * tests * (options.repetitions + 1)
        self._done = 0
        self._progress = progress

    def advance(self, test: str) -> None:
        self._done += 1
        self.tell(test)

    def tell(self, test: str) -> None:
        if self._progress is not None:
            self._progress(test, self._done, self._total)
