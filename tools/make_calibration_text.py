"""Write the text that ``cg quantize`` calibrates on by default: quant/data/calibration/documents.jsonl.

    python3.11 tools/make_calibration_text.py quant/data/calibration/documents.jsonl

One document per file that sources.json lists for it: the whole file if it is short, otherwise the piece in
its middle, cut at blank lines. Needs pip, npm and apt-get, and CPython 3.11.7 to run it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from text_sources import excerpts, fetch, read_packages

WHOLE_CHARACTERS = 4500
"""A file up to this long is taken whole."""
EXCERPT_CHARACTERS = 2500


def document(path: str, text: str) -> str:
    """A line of JSON."""
    if len(text) > WHOLE_CHARACTERS:
        pieces = excerpts(text, EXCERPT_CHARACTERS)
        text = pieces[len(pieces) // 2].rstrip("\n") + "\n"
    return json.dumps({"path": path, "text": text}) + "\n"


def documents() -> str:
    """All documents as JSON Lines."""
    return "".join(
        document(path, text)
        for package in read_packages("calibration")
        for path, text in fetch(package).items()
    )


if __name__ == "__main__":
    data = documents().encode()
    Path(sys.argv[1]).write_bytes(data)
    print(f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
