"""Holes in a text, as an editor's cursor makes them: what stands there is known, so it can be scored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["HOLE_SEED", "Hole", "cut_holes"]

HOLE_SEED = 20240501
"""Every run cuts the same holes."""

_MIN_CHARS = 6  # of a middle; a bracket says little
_MAX_CHARS = 160
_BLOCK_LINES = 3


@dataclass(frozen=True, slots=True)
class Hole:
    """A text with a piece taken out."""

    prefix: str
    middle: str
    suffix: str


def cut_holes(text: str, count: int, seed: int = HOLE_SEED) -> tuple[Hole, ...]:
    """``count`` holes, spread evenly over the text; fewer if it has fewer lines to cut them from.

    In turns the rest of a line, from somewhere behind its indentation, and a block of up to three lines. A
    hole ends before a line break. The same text, count and seed give the same holes.
    """
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    usable = [i for i, line in enumerate(lines) if _MIN_CHARS <= len(line.strip()) <= _MAX_CHARS]
    count = min(count, len(usable))
    rng = random.Random(seed)  # only its random(): what that returns is promised for all versions of Python
    holes = []
    for n in range(count):
        first, last = n * len(usable) // count, (n + 1) * len(usable) // count
        at = usable[first + int(rng.random() * (last - first))]
        begin, length = _block(lines, at) if n % 2 else _rest_of_line(lines[at], rng.random())
        start = starts[at] + begin
        holes.append(Hole(text[:start], text[start : start + length], text[start + length :]))
    return tuple(holes)


def _rest_of_line(line: str, place: float) -> tuple[int, int]:
    """Where the hole begins in the line, and its length."""
    indent = len(line) - len(line.lstrip())
    begin = indent + int(place * (len(line.rstrip()) - _MIN_CHARS - indent + 1))
    return begin, len(line) - begin


def _block(lines: Sequence[str], at: int) -> tuple[int, int]:
    """From behind the indentation of line ``at`` over the lines that follow, up to a blank one."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    length = len(lines[at]) - indent
    for line in lines[at + 1 : at + _BLOCK_LINES]:
        if not line.strip() or length + 1 + len(line) > _MAX_CHARS:
            break
        length += 1 + len(line)
    return indent, length
