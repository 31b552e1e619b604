"""Speed and memory of a model: the tests, on one folder, with what holds for all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from cg.runtime.bench_tests import BenchOptions, BenchResult, Clock, Progress, run_tests
from cg.runtime.engine import Engine
from cg.runtime.errors import UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.preload import PreloadProgress
from cg.runtime.loading import load_gemma
from cg.runtime.models.gemma import Gemma
from cg.runtime.ops import Activations, Backend
from cg.runtime.optimized import OptimizedScales, open_scales
from cg.runtime.process_memory import Memory, MemoryWatch
from cg.runtime.roofline import Bandwidth, Source, measure_read_bandwidth, measure_weights_bandwidth
from cg.runtime.tokenizer import Tokenizer

__all__ = ["BenchReport", "bench_model"]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All tests on one model."""

    model: str
    """Name of its folder."""
    type: str
    """The element type that most weights have."""
    size: int
    """Bytes of all tensors, scales included, as they are read."""
    parameters: int
    backend: str
    isa: str
    activations: str
    load_seconds: float
    """Until the model could compute: the files are mapped and checked, not read."""
    tokenizer_seconds: float | None
    """Loading the tokenizer; None for a folder without one."""
    peak_memory: Memory | None
    results: tuple[BenchResult, ...]
    bandwidths: tuple[Bandwidth, ...] = ()
    """Every measurement in the order of time, for each number of threads, of private memory and of the
    model's weights; none without a roofline."""
    optimized_tensors: int = 0
    """Tensors whose scales are read in f16, from beside the model."""
    warning: str | None = None
    """Why the model did not run as fast as it was prepared to."""

    def bandwidth(self, threads: int, source: Source = "memory") -> Bandwidth | None:
        """All measurements with this number of threads as one."""
        measured = [b for b in self.bandwidths if (b.threads, b.source) == (threads, source)]
        return reduce(Bandwidth.joined, measured) if measured else None

    def limit(self, result: BenchResult, source: Source = "memory") -> float | None:
        """Tokens per second that memory allows a generation test; None for others and without a roofline."""
        bandwidth = self.bandwidth(result.threads, source)
        if bandwidth is None or result.bytes_per_token is None:
            return None
        return bandwidth.bytes_per_second / result.bytes_per_token

    def share(self, result: BenchResult, source: Source = "memory") -> float | None:
        """The part of :meth:`limit` that a test reached."""
        limit = self.limit(result, source)
        return None if limit is None else result.tokens_per_second / limit


def bench_model(
    folder: Path,
    options: BenchOptions | None = None,
    *,
    backend: Backend = "auto",
    threads: Sequence[int] = (),
    activations: Activations | None = None,
    roofline: bool = False,
    preload: bool = False,
    preload_progress: PreloadProgress | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> BenchReport:
    """Load a folder and measure, with each number of threads; none stands for the backend's default.

    Raises:
        ContextLengthError: a test that the model's context does not hold.
        FormatError: a file is missing or malformed.
        BackendError: the backend is not available here, or read bandwidth cannot be measured.
        UsageError: an impossible number of threads, several for a backend that has one, or weights to preload
            that memory cannot hold.
    """
    options = options or BenchOptions()
    if threads and min(threads) < 1:
        raise UsageError(f"{min(threads)} threads, expected 1 or more")
    started = clock()
    with Checkpoint.open(folder) as checkpoint:
        first, *others = dict.fromkeys(threads) or (None,)
        scales = open_scales(checkpoint)
        model = load_gemma(checkpoint, backend=backend, threads=first, activations=activations, scales=scales)
        loaded = clock()
        if preload:
            checkpoint.preload(preload_progress)
        else:
            checkpoint.read_ahead()
        models = [model, *_with_threads(checkpoint, model, others, activations, scales)]
        tokenizer_seconds = _load_tokenizer(folder, clock)
        watch = MemoryWatch()
        bandwidths: list[Bandwidth] = []

        def measure_bandwidths() -> None:
            if not roofline:
                return
            for m in models:
                bandwidths.append(measure_read_bandwidth(m.ops.threads))
                bandwidths.append(measure_weights_bandwidth(m))

        engines = [Engine(m) for m in models]
        results = tuple(
            run_tests(
                engines, options, watch=watch, progress=progress, clock=clock, between=measure_bandwidths
            )
        )
        native = model.ops.name == "native"
        tensors = (scales.applied_to(checkpoint.tensors) if native else checkpoint.tensors).values()
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
            activations=model.ops.activations,
            load_seconds=loaded - started,
            tokenizer_seconds=tokenizer_seconds,
            peak_memory=watch.peak,
            results=results,
            bandwidths=tuple(bandwidths),
            optimized_tensors=len(scales.tensors) if native else 0,
            warning=scales.warning if native else None,
        )


def _with_threads(
    checkpoint: Checkpoint,
    model: Gemma,
    threads: Sequence[int],
    activations: Activations | None,
    scales: OptimizedScales,
) -> list[Gemma]:
    """The same mapped weights once more for each number of threads."""
    if threads and model.ops.name != "native":
        raise UsageError(
            f"the {model.ops.name} backend cannot be measured with several numbers of threads in one run",
            hint="give one, or use --backend native",
        )
    return [
        load_gemma(checkpoint, backend="native", threads=number, activations=activations, scales=scales)
        for number in threads
    ]


def _load_tokenizer(folder: Path, clock: Clock) -> float | None:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return None  # random ids need no tokenizer
    started = clock()
    Tokenizer.load(folder)
    return clock() - started
