"""llama.cpp's own quantizer, called as a library.

    python ggml_quantize.py SOURCE.gguf OUT.gguf THREADS [TYPE [IMATRIX.npz]]

Prints the seconds of the call alone, as JSON: ``llama-quantize`` has no Python to start. Without a type every
matrix becomes Q4_0, the embedding too ("pure"), as ``cg quantize`` does it. ``default`` is Q4_0 as
``llama-quantize`` makes it by default, with an embedding in Q6_K. With ``Q4_0`` or ``Q4_K_M`` the embedding
keeps bf16, and the other matrices get what llama.cpp gives them; the importance matrix has an array per
tensor, mean squares of its inputs.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time

import numpy as np
from llama_cpp import llama_cpp as api

__all__: list[str] = []

_BF16 = 30  # GGML_TYPE_BF16


def _main(
    source: str, target: str, threads: str, kind: str | None = None, imatrix: str | None = None
) -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # the library's log
    api.llama_backend_init()
    params = api.llama_model_quantize_default_params()
    params.nthread = int(threads)
    if kind is None or kind == "default":
        params.ftype = api.LLAMA_FTYPE_MOSTLY_Q4_0
        params.pure = kind is None
    else:
        params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind}")
        params.token_embedding_type = params.output_tensor_type = _BF16
    if imatrix is not None:
        params.imatrix = _importance(imatrix)
    started = time.perf_counter()
    status = api.llama_model_quantize(source.encode(), target.encode(), params)
    seconds = time.perf_counter() - started
    if status != 0:
        sys.exit(f"llama_model_quantize returned {status}")
    os.write(answers, json.dumps({"seconds": seconds}).encode())


def _importance(file: str) -> ctypes.Array[api.llama_model_imatrix_data]:
    """An array that ends with an entry without a name."""
    with np.load(file) as arrays:
        found = {name: np.ascontiguousarray(arrays[name], np.float32) for name in arrays.files}
    entries = (api.llama_model_imatrix_data * (len(found) + 1))()
    for entry, (name, values) in zip(entries, found.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(values)
    _kept.append(found)
    return entries  # type: ignore[no-any-return]


_kept: list[dict[str, np.ndarray]] = []  # the library reads from them


if __name__ == "__main__":
    _main(*sys.argv[1:])
