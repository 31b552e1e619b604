"""Write the evaluation texts that ``cg verify`` brings along: quant/data/held_out_LANGUAGE.txt.

    python3.11 tools/make_evaluation_text.py quant/data                        # all of them
    python3.11 tools/make_evaluation_text.py quant/data held_out_python

Excerpts from files that sources.json lists, three from each, the first of every file before the second of
any: whatever number of chunks is evaluated sees all kinds of code. The bundled model never saw the Python
ones in training; none of the packages is in the calibration text. Run it with CPython 3.11.7, and with npm
and apt-get at hand, to get the files that are committed.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from text_sources import excerpts, fetch, read_packages

ROUNDS = 3
EXCERPT_CHARACTERS = 2500


def evaluation_text(name: str) -> str:
    """All excerpts, round by round."""
    files = [text for package in read_packages(name) for text in fetch(package).values()]
    by_file = [excerpts(text, EXCERPT_CHARACTERS) for text in files]
    if min(map(len, by_file)) < ROUNDS:
        sys.exit(f"{name}: a file has fewer than {ROUNDS} excerpts of {EXCERPT_CHARACTERS} characters")
    places = [(2 * turn + 1) / (2 * ROUNDS) for turn in range(ROUNDS)]
    return "".join(pieces[int(place * len(pieces))] for place in places for pieces in by_file)


if __name__ == "__main__":
    names = dict.fromkeys(package.text for package in read_packages() if package.text != "calibration")
    for name in sys.argv[2:] or names:
        data = evaluation_text(name).encode()
        Path(sys.argv[1], f"{name}.txt").write_bytes(data)
        print(f"{name}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
