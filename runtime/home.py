"""cg's own folder on this machine. Only the standard library."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["home", "optimized_file", "tokenizers_folder"]


def home() -> Path:
    """cg's own folder: $CG_HOME, or ~/.cache/cg."""
    value = os.environ.get("CG_HOME")
    return Path(value).expanduser() if value else Path.home() / ".cache" / "cg"


def tokenizers_folder() -> Path | None:
    """Where compact forms of tokenizers are kept, a cache that may not exist yet; None without a home."""
    return _cache("tokenizers")


def optimized_file(model: Path) -> Path | None:
    """Where the optimized scales of a model's folder are kept; None without a home.

    The folder's real path decides, so that every name that a model has leads to the same file.
    """
    folder = _cache("optimized")
    if folder is None:
        return None
    import hashlib  # not for every start

    key = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:32]
    return folder / f"{key}.safetensors"


def _cache(name: str) -> Path | None:
    try:
        return home() / name
    except RuntimeError:  # an id without a name, as in many containers
        return None
