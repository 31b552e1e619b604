"""What a model folder holds, as far as names and sizes tell: no tensor is read, no library imported."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["CONFIG", "file_size", "folder_size", "missing_files", "model_type", "weights_type"]

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


def missing_files(folder: Path) -> list[str]:
    """The files without which the folder is no model: config.json, and the weights or shards."""
    missing = [] if (folder / CONFIG).is_file() else [CONFIG]
    return missing + [name for name in _weight_files(folder) if not _is_inside(name, folder)]


def folder_size(folder: Path) -> int:
    """Bytes of all files below the folder, links followed."""
    return sum(file_size(path) for path in folder.rglob("*"))


def file_size(path: Path) -> int:
    """Bytes of a file, a link followed; 0 for a folder and for what a running download has just renamed."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def model_type(folder: Path) -> str | None:
    """``model_type`` of config.json; None if there is none or it cannot be read."""
    value = _read_json(folder / CONFIG).get("model_type")
    return value if isinstance(value, str) else None


def weights_type(folder: Path) -> str:
    """``q4``, ``i8``, or the dtype that most matrices have (``bf16`` ...); ``?`` if no header is readable."""
    counts: Counter[str] = Counter()
    names: set[str] = set()
    for shard in _weight_files(folder):
        header = _read_header(folder / shard) if _is_inside(shard, folder) else {}
        names.update(header)
        for entry in header.values():
            if not isinstance(entry, dict):
                continue
            shape, dtype = entry.get("shape"), entry.get("dtype")
            if isinstance(dtype, str) and isinstance(shape, list) and len(shape) == 2:
                counts[dtype.lower()] += 1
    if counts["q4"]:
        return "q4"
    if counts["i8"] and any(name.endswith(".qb") for name in names):
        return "i8"
    return max(counts, key=lambda dtype: counts[dtype]) if counts else "?"


def _weight_files(folder: Path) -> list[str]:
    """The shards that the index names, else the single file."""
    if not (folder / _INDEX).is_file():
        return [_WEIGHTS]
    weight_map = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        return [_WEIGHTS]
    return sorted({str(name) for name in weight_map.values()})


def _is_inside(name: str, folder: Path) -> bool:
    """Whether a shard's file exists; a name that leads out of the folder counts as missing."""
    relative = Path(name)
    return not relative.is_absolute() and ".." not in relative.parts and (folder / relative).is_file()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file; empty if unreadable (loading says why, listing does not)."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LARGEST_HEADER:
                return {}
            value = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
