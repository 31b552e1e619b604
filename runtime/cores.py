"""How many threads are worth starting on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["physical_cores"]

_CPUS = Path("/sys/devices/system/cpu")


def physical_cores() -> int:
    """Physical cores that this process may use, at least 1.

    Two hardware threads of one core share its arithmetic and its bandwidth, so a second one brings nothing.
    """
    logical = _usable_cpus()
    if sys.platform.startswith("linux"):
        cores = {_siblings(cpu) for cpu in logical}
        return max(1, len(cores))
    if sys.platform == "darwin":
        return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or len(logical)
    return max(1, len(logical))


def _usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """The hardware threads of a CPU's core as the kernel lists them, or the CPU itself where it does not."""
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text("ascii").strip()
    except OSError:
        return str(cpu)


def _sysctl(name: str) -> int | None:
    try:
        answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=5)
        return int(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
