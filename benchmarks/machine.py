"""What a measurement was made on: the machine, the system, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import cg

__all__ = ["describe"]

_SIMD = ("avx", "fma", "f16c", "amx", "vnni", "asimd", "sve", "i8mm", "bf16", "gfni", "vaes")
_ROOT = Path(__file__).parent.parent


def describe() -> dict[str, Any]:
    """The machine and the software that is not a peer's."""
    cpu = _cpu()
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu.get("model name", platform.processor()),
        "cpu_family_model": f"family {cpu.get('cpu family', '?')}, model {cpu.get('model', '?')}",
        "instruction_sets": [flag for flag in flags if flag.startswith(_SIMD)],
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{_distribution()}, Linux {platform.release()}",
        "load_at_start": os.getloadavg()[0],
        "cg": cg.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _cpu() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return "unknown distribution"


def _commit() -> str | None:
    """The commit that is measured, with a + if files differ from it; None outside a clone."""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None
