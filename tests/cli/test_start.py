"""numpy comes without threads of its own only where nothing would use them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TASKS = Path("/proc/self/task")  # the threads of a process, on Linux


def started(backend: str, before: str = "", **environment: str) -> list[str]:
    """Threads after numpy was imported, and what the environment says afterwards."""
    code = (
        f"import os, sys\n{before}\nfrom cg.cli.start import import_numpy\nimport_numpy({backend!r})\n"
        "import numpy\n"
        f"print(len(os.listdir({str(_TASKS)!r})), os.environ.get('OPENBLAS_NUM_THREADS'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return run.stdout.split()


@pytest.mark.skipif(not _TASKS.exists(), reason="needs Linux's list of threads")
@pytest.mark.parametrize("backend", ["auto", "native"])
def test_the_kernels_need_no_threads_of_numpy(backend: str) -> None:
    assert started(backend) == ["1", "None"]


@pytest.mark.skipif(not _TASKS.exists(), reason="needs Linux's list of threads")
def test_everybody_else_gets_them() -> None:
    usual, _ = started("native", before="import numpy")
    assert started("numpy") == started("torch") == [usual, "None"]
    without_kernels = started("auto", before="sys.modules['cg.runtime._native'] = None")
    assert without_kernels == [usual, "None"]


@pytest.mark.skipif(not _TASKS.exists(), reason="needs Linux's list of threads")
def test_who_chose_a_number_gets_it() -> None:
    assert started("auto", OPENBLAS_NUM_THREADS="2")[1] == "2"
