"""Write the evaluation text that ``cg verify`` uses by default: quant/data/held_out_python.txt.

    python3.11 tools/make_evaluation_text.py quant/data/held_out_python.txt

Excerpts from standard-library modules that the bundled model never saw in training, three from each
module, the first of every module before the second of any: whatever number of chunks is evaluated sees
all kinds of code. Run it with CPython 3.11.7 to get the file that is committed.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from pathlib import Path

MODULES = (
    "fractions.py", "argparse.py", "heapq.py", "configparser.py", "textwrap.py", "functools.py",
    "shlex.py", "statistics.py", "graphlib.py", "csv.py", "asyncio/events.py", "queue.py",
)  # fmt: skip
ROUNDS = 3
EXCERPT_CHARACTERS = 2500


def excerpts(text: str) -> list[str]:
    """The text cut at blank lines into pieces of at least :data:`EXCERPT_CHARACTERS`."""
    pieces = [""]
    for paragraph in text.split("\n\n"):
        if len(pieces[-1]) >= EXCERPT_CHARACTERS:
            pieces.append("")
        pieces[-1] += paragraph.rstrip("\n") + "\n\n"
    return [piece.lstrip("\n") for piece in pieces if piece.strip()]


def evaluation_text() -> str:
    """All excerpts, round by round."""
    library = Path(sysconfig.get_path("stdlib"))
    by_module = [excerpts((library / name).read_text("utf-8")) for name in MODULES]
    places = [(2 * turn + 1) / (2 * ROUNDS) for turn in range(ROUNDS)]
    return "".join(pieces[int(place * len(pieces))] for place in places for pieces in by_module)


if __name__ == "__main__":
    data = evaluation_text().encode()
    Path(sys.argv[1]).write_bytes(data)
    print(f"Python {sys.version.split()[0]}: {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
