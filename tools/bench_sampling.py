"""Time choosing a token from the logits of a whole vocabulary, beside sorting them all, in one run."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from cg.runtime.sampling import Sampler, SamplingOptions, apply_repetition_penalty, make_sampler
from cg.runtime.tensor import Floats

CASES = {
    "greedy": SamplingOptions(),
    "greedy, penalty": SamplingOptions(repetition_penalty=1.1),
    "temperature": SamplingOptions(temperature=0.8, seed=0),
    "top-k 40": SamplingOptions(temperature=0.8, top_k=40, seed=0),
    "top-p 0.95": SamplingOptions(temperature=0.8, top_p=0.95, seed=0),
    "min-p 0.05": SamplingOptions(temperature=0.8, min_p=0.05, seed=0),
    "top-k and top-p": SamplingOptions(temperature=0.8, top_k=40, top_p=0.95, seed=0),
    "top-p and min-p": SamplingOptions(temperature=0.8, top_p=0.95, min_p=0.05, seed=0),
    "all three, penalty": SamplingOptions(0.8, 40, 0.95, 0.05, 1.1, 0),
}
HISTORY = list(range(0, 5000, 10))


def make_logits(size: int) -> dict[str, Floats]:
    """Peaked, as those of a model that knows what comes next; with a heavy tail; all much alike."""
    rng = np.random.default_rng(0)
    ranks, normal = rng.permutation(size), rng.normal(size=size)
    logits = {
        "peaked": np.where(ranks < 40, 24 - ranks / 4, 3 * normal),
        "tail": -1.2 * np.log1p(ranks) + normal / 2,
        "flat": normal,
    }
    return {name: values.astype(np.float32) for name, values in logits.items()}


def sort_everything(options: SamplingOptions) -> Sampler:
    """The plain definition."""
    generator = np.random.default_rng(options.seed)

    def sample(logits: Floats, history: object) -> int:
        assert np.isfinite(logits).all()
        if options.repetition_penalty != 1.0:
            logits = apply_repetition_penalty(logits, HISTORY, options.repetition_penalty)
        if options.temperature == 0.0:
            return int(logits.argmax())
        kept = len(logits)
        if options.top_k:
            ids = np.argpartition(logits, -options.top_k)[-options.top_k :]
            ids = ids[np.argsort(-logits[ids], kind="stable")]
        else:
            ids = np.argsort(-logits, kind="stable")
        weights = np.exp((logits[ids].astype(np.float64) - float(logits[ids[0]])) / options.temperature)
        if options.top_p < 1.0:
            kept = int((weights.cumsum() - weights < options.top_p * weights.sum()).sum())
        if options.min_p > 0.0:
            kept = min(kept, int((weights >= options.min_p).sum()))
        sums = weights[:kept].cumsum()
        return int(ids[min(int(sums.searchsorted(generator.random() * sums[-1], "right")), kept - 1)])

    return sample


def microseconds(run: Callable[[], object], seconds: float) -> list[float]:
    """Of every run in about that time, five at least, after two to warm up."""
    run(), run()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds * 1e6:
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1e6)
    return times


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256_000, help="logits (default: CodeGemma's 256000)")
    parser.add_argument("--seconds", type=float, default=0.3, help="time per figure")
    arguments = parser.parse_args()
    print(f"{'µs: median (least)':28}{'sorting':>16}{'now':>16}")
    for name, logits in make_logits(arguments.size).items():
        for case, options in CASES.items():
            cells = []
            for make in (sort_everything, make_sampler):
                sampler = make(options)
                times = microseconds(lambda s=sampler, x=logits: s(x, HISTORY), arguments.seconds)  # type: ignore[misc]
                cells.append(f"{statistics.median(times):,.0f} ({min(times):,.0f})")
            print(f"{name + ', ' + case:28}{cells[0]:>16}{cells[1]:>16}")


if __name__ == "__main__":
    main()
