"""llama.cpp's own quantizer, called as a library.

    python ggml_quantize.py SOURCE.gguf OUT.gguf THREADS

Prints the seconds of the call alone, as JSON: the program ``llama-quantize`` has no Python to start. Every
matrix becomes Q4_0, the embedding too ("pure"), as ``cg quantize`` does it.
"""

from __future__ import annotations

import json
import os
import sys
import time

from llama_cpp import llama_cpp as api

__all__: list[str] = []


def _main(source: str, target: str, threads: str) -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # the library's log
    api.llama_backend_init()
    params = api.llama_model_quantize_default_params()
    params.ftype = api.LLAMA_FTYPE_MOSTLY_Q4_0
    params.nthread = int(threads)
    params.pure = True
    started = time.perf_counter()
    status = api.llama_model_quantize(source.encode(), target.encode(), params)
    seconds = time.perf_counter() - started
    if status != 0:
        sys.exit(f"llama_model_quantize returned {status}")
    os.write(answers, json.dumps({"seconds": seconds}).encode())


if __name__ == "__main__":
    _main(*sys.argv[1:])
