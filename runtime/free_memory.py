"""How much memory the system can still give, page cache that it would drop for it included."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory"]

_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that can be used without swapping, or None where the system does not tell (only Linux does)."""
    try:
        lines = _MEMINFO.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
