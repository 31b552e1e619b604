"""cg's own folder on this machine. Only the standard library."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["home", "tokenizers_folder"]


def home() -> Path:
    """cg's own folder: $CG_HOME, or ~/.cache/cg."""
    value = os.environ.get("CG_HOME")
    return Path(value).expanduser() if value else Path.home() / ".cache" / "cg"


def tokenizers_folder() -> Path | None:
    """Where compact forms of tokenizers are kept, a cache that may not exist yet; None without a home."""
    try:
        return home() / "tokenizers"
    except RuntimeError:  # an id without a name, as in many containers
        return None
