"""Whole programs against the clock: quantizing, and the first token of a fresh process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conversation import Worker
from rounds import Sample, timed

__all__ = ["cg_first_token", "ik_quantize", "program", "reported", "worker_first_token"]


def program(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Sample:
    """Seconds from the start of the process to its end."""

    def run() -> float:
        started = time.perf_counter()
        _run(command, environment)
        return time.perf_counter() - started

    return _timed(run)


def reported(command: Sequence[str]) -> Sample:
    """The seconds that the program itself prints."""
    return _timed(lambda: float(json.loads(_run(command, None))["seconds"]))


def worker_first_token(command: Sequence[str], log: Path, ids: Sequence[int]) -> Sample:
    """Seconds from the start of a worker to its answer to a prompt."""

    def run() -> float:
        started = time.perf_counter()
        with Worker(command[1], command, log) as worker:
            worker.ask("prompt", ids=list(ids))
            return time.perf_counter() - started

    return _timed(run)


def cg_first_token(model: Path, threads: int, number: int, home: Path) -> Sample:
    """Seconds that ``cg complete`` takes for one token behind a prompt of 15.

    ``number`` makes the prompt another one every time, so that nothing kept of an earlier one can help.
    """
    command = [
        sys.executable, "-m", "cg.cli", "complete", "--model", str(model), "--threads", str(threads),
        "--prefix", f"def add_{number}(a, b): ", "--suffix", "\n", "--max-tokens", "1",
    ]  # fmt: skip
    return program(command, {"CG_HOME": str(home)})


def ik_quantize(python: Path, source: Path, target: Path, threads: int) -> list[str]:
    """ik_llama.cpp's own ``llama-quantize``, which its package contains."""
    (tool,) = python.parent.parent.glob("lib/python*/site-packages/ik_llama_cpp/bin/llama-quantize")
    return [str(tool), "--pure", str(source), str(target), "Q4_0", str(threads)]


def _run(command: Sequence[str], environment: Mapping[str, str] | None) -> str:
    run = subprocess.run(
        command, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {run.returncode}\n{run.stderr[-2000:]}")
    return run.stdout


def _timed(run: Callable[[], float]) -> Sample:
    os.sync()  # what an earlier program left to be written must not be written during the next
    return timed(run, _children_seconds)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
