"""Rounds in alternation: every engine once, then again, so that a slow minute of the machine meets all."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conversation import Worker, settle

__all__ = ["Question", "Sample", "Samples", "run_rounds", "timed"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    seconds: float
    others: float = 0.0
    """Share of the processors that anything but the measured program used meanwhile: what disturbs."""


Samples = dict[str, dict[str, list[Sample]]]
"""By figure and engine, one sample a round."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a worker is asked for a figure; the answer is seconds, or a list of them (the median counts)."""

    figure: str
    do: str
    arguments: Mapping[str, Any]
    engines: tuple[str, ...]
    """Those that are asked, if they are there."""


def run_rounds(
    questions: Sequence[Question],
    workers: Mapping[str, Worker],
    rounds: int,
    samples: Samples,
    say: Callable[[str], None],
) -> None:
    """Ask everything ``rounds`` times and add the answers to ``samples``."""
    for number in range(1, rounds + 1):
        for question in questions:
            answers = []
            for engine in question.engines:
                if engine not in workers:
                    continue
                worker = workers[engine]
                sample = timed(partial(_seconds, worker, question), worker.cpu_seconds)
                samples.setdefault(question.figure, {}).setdefault(engine, []).append(sample)
                answers.append(f"{engine} {sample.seconds:.3f} s")
            say(f"round {number}/{rounds} {question.figure}: {', '.join(answers)}")


def timed(run: Callable[[], float], cpu_seconds: Callable[[], float]) -> Sample:
    """The seconds that ``run`` returns, and what else was going on on the machine.

    ``cpu_seconds`` is the processor time of the measured program so far.
    """
    settle()
    busy, used, started = _busy_seconds(), cpu_seconds(), time.monotonic()
    seconds = run()
    elapsed = time.monotonic() - started
    foreign = (_busy_seconds() - busy) - (cpu_seconds() - used)
    return Sample(seconds, min(1.0, max(0.0, foreign / (elapsed * _cpus()))))


def _seconds(worker: Worker, question: Question) -> float:
    answer: float | Iterable[float] = worker.ask(question.do, **question.arguments)
    return answer if isinstance(answer, float) else statistics.median(answer)


def _busy_seconds() -> float:
    """Processor time that the whole machine has used, stolen time included."""
    user, nice, system, _, _, irq, softirq, steal = map(int, _stat()[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _cpus() -> int:
    return sum(line.startswith("cpu") for line in _stat()) - 1


def _stat() -> list[str]:
    return Path("/proc/stat").read_text("ascii").splitlines()
