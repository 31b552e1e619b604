"""cg as a worker: the default backend on a checkpoint folder, as it is or with its optimized scales.

python cg_worker.py FOLDER THREADS [optimized]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from worker import serve

import cg
from cg.runtime.engine import Engine
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.optimized import open_scales

__all__ = ["CgEngine"]


class CgEngine:
    """A mapped model with one key-value cache for every depth that decoding is measured at."""

    def __init__(self, folder: Path, threads: int, *, optimized: bool = False) -> None:
        checkpoint = Checkpoint.open(folder)
        self._scales = open_scales(checkpoint) if optimized else None
        if self._scales is not None and self._scales.state != "fits":
            sys.exit(f"{folder} is not optimized: {self._scales.state}")
        self._model = load_gemma(checkpoint, threads=threads, scales=self._scales)
        self._engines: dict[int, Engine] = {}

    def describe(self) -> dict[str, Any]:
        """Version and the backend that was chosen."""
        ops = self._model.ops
        settings = {"backend": ops.name, "isa": ops.isa, "activations": ops.activations}
        if self._scales is not None:
            settings["scales"] = "f16"
        return {
            "package": "codegemma-cg",
            "version": cg.__version__,
            "settings": settings,
            "threads": ops.threads,
        }

    def prompt(self, ids: Sequence[int]) -> float:
        """Seconds for a prompt from an empty cache, logits of the last token."""
        engine = self._engine(0)
        engine.cache.truncate(0)
        started = time.perf_counter()
        engine.prefill(ids)
        return time.perf_counter() - started

    def fill(self, depth: int, ids: Sequence[int]) -> float:
        """Seconds to fill the cache of that depth with as many ids."""
        engine = self._engine(depth)
        started = time.perf_counter()
        engine.prefill(ids)
        return time.perf_counter() - started

    def decode(self, ids: Sequence[int], depth: int = 0) -> float:
        """Seconds to append ids one at a time behind ``depth`` tokens."""
        engine = self._engine(depth)
        engine.cache.truncate(depth)
        started = time.perf_counter()
        for token in ids:
            engine.decode_step(token)
        return time.perf_counter() - started

    def batch(self, ids: Sequence[int], repeat: int) -> list[float]:
        """Seconds for all ids in one batch with the logits of each, from an empty cache.

        ``repeat`` times, after once to warm up.
        """
        cache = self._engine(0).cache
        cache.truncate(0)
        tokens = np.asarray(ids, np.int32)
        seconds = []
        for _ in range(repeat + 1):
            started = time.perf_counter()
            self._model.forward(tokens, cache, last_only=False)
            seconds.append(time.perf_counter() - started)
        return seconds[1:]

    def bandwidth(self) -> dict[str, float] | None:
        """What limits decoding: bytes that this machine reads a second, and bytes a token needs."""
        try:
            from cg.runtime import roofline
        except ImportError:
            return None
        measured = roofline.measure_read_bandwidth(threads=self._model.ops.threads)
        weights = roofline.measure_weights_bandwidth(self._model)
        return {
            "bytes_per_second": measured.bytes_per_second,
            "weights_bytes_per_second": weights.bytes_per_second,
            "bytes_per_token": roofline.bytes_per_token(self._model),
        }

    def _engine(self, depth: int) -> Engine:
        if depth not in self._engines:
            self._engines[depth] = Engine(self._model)
        return self._engines[depth]


if __name__ == "__main__":
    serve(CgEngine(Path(sys.argv[1]), int(sys.argv[2]), optimized=sys.argv[3:] == ["optimized"]))
