"""llama.cpp or ik_llama.cpp as a worker, through the C interface that its Python package brings along.

    python ggml_worker.py {llama,ik} MODEL.gguf THREADS

Each is given what its authors recommend on a CPU: flash attention, weights repacked for the instruction set
at load (llama.cpp does that by itself, ik_llama.cpp calls it run-time repacking), fused operations, prompts
in batches of 512.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ggml_library import Library, open_library
from worker import serve

__all__ = ["GgmlEngine"]

_BATCH = 512
_SPARE = 512  # tokens of room beyond the depth: the prompt, or what is decoded


class GgmlEngine:
    """A loaded model with one context for every depth that decoding is measured at."""

    def __init__(self, library: Library, path: str, threads: int) -> None:
        self._library, self._threads = library, threads
        self._api = library.api
        self._api.llama_backend_init()
        self._model = self._api.llama_model_load_from_file(path.encode(), library.model_params())
        if not self._model:
            raise RuntimeError(f"{path} could not be loaded")
        self._contexts: dict[int, Any] = {}
        self._batch = self._api.llama_batch_init(_BATCH, 0, 1)

    def describe(self) -> dict[str, Any]:
        """Version, settings, and what the build can do."""
        return {
            "package": self._library.package,
            "version": version(self._library.package),
            "settings": self._library.settings,
            "threads": self._threads,
            "system": self._library.system_info(),
        }

    def prompt(self, ids: Sequence[int]) -> float:
        """Seconds for a prompt from an empty cache, logits of the last token."""
        context = self._context(0)
        self._library.truncate(context, 0)
        started = time.perf_counter()
        self._feed(context, ids, 0)
        return time.perf_counter() - started

    def fill(self, depth: int, ids: Sequence[int]) -> float:
        """Seconds to fill the context of that depth with as many ids."""
        context = self._context(depth)
        self._library.truncate(context, 0)
        started = time.perf_counter()
        for start in range(0, depth, _BATCH):
            self._feed(context, ids[start : start + _BATCH], start)
        return time.perf_counter() - started

    def decode(self, ids: Sequence[int], depth: int = 0) -> float:
        """Seconds to append ids one at a time behind ``depth`` tokens."""
        context = self._context(depth)
        self._library.truncate(context, depth)
        started = time.perf_counter()
        for position, token in enumerate(ids, depth):
            self._feed(context, [token], position)
        return time.perf_counter() - started

    def batch(self, ids: Sequence[int], repeat: int) -> list[float]:
        """Seconds for all ids in one batch with the logits of each, from an empty cache.

        ``repeat`` times, after once to warm up.
        """
        context = self._context(0)
        seconds = []
        for _ in range(repeat + 1):
            self._library.truncate(context, 0)
            started = time.perf_counter()
            self._feed(context, ids, 0, all_logits=True)
            seconds.append(time.perf_counter() - started)
        return seconds[1:]

    def _context(self, depth: int) -> Any:
        if depth not in self._contexts:
            params = self._library.context_params()
            params.n_ctx = depth + _SPARE
            params.n_batch = params.n_ubatch = _BATCH
            params.n_threads = params.n_threads_batch = self._threads
            context = self._api.llama_init_from_model(self._model, params)
            if not context:
                raise RuntimeError(f"no context of {params.n_ctx} tokens")
            self._contexts[depth] = context
        return self._contexts[depth]

    def _feed(self, context: Any, ids: Sequence[int], position: int, *, all_logits: bool = False) -> None:
        batch = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = all_logits or i == len(ids) - 1
        status = self._api.llama_decode(context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        self._library.synchronize(context)


def _main(kind: str, path: str, threads: str) -> None:
    serve(GgmlEngine(open_library(kind), path, int(threads)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
