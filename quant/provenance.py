"""Where a quantized file comes from: what is known about the source, and the strings in its header."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cg import __version__
from cg.quant.plan import QuantizeOptions

__all__ = ["FORMAT_VERSION", "NO_CHECKSUM", "Source", "identify", "metadata"]

FORMAT_VERSION = "1"
"""Of the ``cg.*`` metadata; raised when a key changes its meaning."""

NO_CHECKSUM = "0" * 64
"""Stands in for a SHA-256 until it is known."""

# <cache>/models--ORG--NAME/snapshots/COMMIT, see https://huggingface.co/docs/huggingface_hub/guides/manage-cache
_CACHE_PATH = re.compile(
    r"models--(?P<org>[^/\\]+?)--(?P<name>[^/\\]+)[/\\]snapshots[/\\](?P<commit>[^/\\]+)$"
)


@dataclass(frozen=True, slots=True)
class Source:
    """What the source's folder tells about it."""

    name: str
    """The model's name: without organization, without path."""
    repo_id: str | None = None
    """``ORG/NAME`` on the Hub, if the folder lies in the Hub's cache."""
    revision: str | None = None
    """The commit, likewise."""


def identify(folder: Path) -> Source:
    """Read a folder's name; the Hub's cache encodes repository and commit in it."""
    path = folder.absolute()
    match = _CACHE_PATH.search(str(path))
    if match:
        return Source(match["name"], f"{match['org']}/{match['name']}", match["commit"])
    name = path.resolve().name.encode("utf-8", "replace").decode()  # names of folders may be any bytes
    return Source("".join(c if c.isprintable() else "?" for c in name) or "model")


def metadata(
    source: Source,
    options: QuantizeOptions,
    checksums: Mapping[str, str],
    calibration: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Flat strings for ``__metadata__``. No time and no path: the same input gives the same bytes."""
    strings = {
        "format": "pt",
        "cg.format": FORMAT_VERSION,
        "cg.version": __version__,
        "cg.source": source.repo_id or source.name,
        "cg.type": options.type,
        "cg.method": options.method,
        "cg.scales": options.scales,
        "cg.keep": json.dumps(list(options.patterns)),
        "cg.jlama_runnable": json.dumps(options.jlama_runnable),
        "cg.allow_nonfinite": json.dumps(options.allow_nonfinite),
        "cg.source_sha256": json.dumps(dict(checksums)),
        **(calibration or {}),
    }
    if options.bits is not None:
        strings["cg.bits"] = json.dumps(options.bits)
    if source.revision:
        strings["cg.revision"] = source.revision
    return strings
