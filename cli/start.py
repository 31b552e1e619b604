"""Starting quickly: numpy without what the compiled kernels have no use for."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

__all__ = ["import_numpy"]

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def import_numpy(backend: str) -> None:
    """Import numpy; where the native backend computes, without the threads of numpy's matrix library.

    Starting those is a third of the import. Whoever chose their number gets it.
    """
    lean = backend in ("auto", "native") and find_spec("cg.runtime._native") is not None
    if "numpy" in sys.modules or _BLAS_THREADS in os.environ or not lean:
        return
    os.environ[_BLAS_THREADS] = "1"  # read once, when the library is loaded
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[_BLAS_THREADS]
