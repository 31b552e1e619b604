"""Threads for the work on matrices: several products side by side, each on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from threadpoolctl import threadpool_limits

__all__ = ["Workers"]

_T = TypeVar("_T")


class Workers:
    """A team of threads; a context manager.

    BLAS has one thread for as long: its own would spin between two products and take the processors from
    the runtime's kernels, which makes both many times slower.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._limits = threadpool_limits(1, "blas")
        self._pool = ThreadPoolExecutor(threads, "cg-round")

    def each(self, function: Callable[[_T], object], items: Iterable[_T]) -> None:
        """Call ``function`` with every item, on all threads; they must not get into each other's way."""
        for _ in self._pool.map(function, items):
            pass

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._limits.restore_original_limits()
