"""Cutting texts to a number of tokens at line boundaries, without encoding a whole large file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cg.runtime.tokenizer import Tokenizer

__all__ = ["SUFFIX_SHARE", "Piece", "encode_within", "keep_end", "keep_start", "split_budget"]

_CHARS_PER_TOKEN = 4  # first guess of how much text to look at: code has about 3.5
_SEAM = 64  # tokens by which a text's beginning may exceed the whole, because they merge across the cut
SUFFIX_SHARE = 4
"""The suffix gets one part in so many, when prefix and suffix both are too long."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What was kept of a text, and its ids."""

    text: str
    ids: list[int]


def encode_within(tokenizer: Tokenizer, text: str, limit: int) -> list[int] | None:
    """The ids of ``text`` if there are at most ``limit``, else None.

    A text that is much too long is recognised by its beginning.
    """
    if limit < 0:
        return None
    seen = (limit + _SEAM) * _CHARS_PER_TOKEN
    while seen < len(text):
        if len(tokenizer.encode(text[:seen])) > limit + _SEAM:
            return None
        seen *= 2
    ids = tokenizer.encode(text)
    return ids if len(ids) <= limit else None


def keep_end(tokenizer: Tokenizer, text: str, limit: int) -> Piece:
    """The end of ``text``, cut at a line boundary, in at most ``limit`` tokens.

    Only if not even the last line fits, it is cut itself.
    """
    line = text[text.rfind("\n") + 1 :]
    ids = encode_within(tokenizer, line, limit)
    if ids is None:
        return _inside(tokenizer, line, limit, _END)
    kept = _END.chars(text, _estimate(tokenizer, text, limit, _END))
    if len(kept) < len(text) and text[-len(kept) - 1] != "\n":
        kept = kept[kept.find("\n") + 1 :]
    while len(kept) > len(line):
        kept_ids = tokenizer.encode(kept)
        if len(kept_ids) <= limit:
            return Piece(kept, kept_ids)
        kept = kept[kept.find("\n") + 1 :]  # the cut split a run of newlines: one token too many
    return Piece(line, ids)


def keep_start(tokenizer: Tokenizer, text: str, limit: int) -> Piece:
    """The beginning of ``text``, cut at a line boundary, in at most ``limit`` tokens.

    Only if not even the first line fits, it is cut itself.
    """
    line = text[: text.find("\n") + 1] or text
    ids = encode_within(tokenizer, line, limit)
    if ids is None:
        return _inside(tokenizer, line, limit, _START)
    kept = _START.chars(text, _estimate(tokenizer, text, limit, _START))
    if len(kept) < len(text):
        kept = kept[: kept.rfind("\n") + 1]
    while len(kept) > len(line):
        kept_ids = tokenizer.encode(kept)
        if len(kept_ids) <= limit:
            return Piece(kept, kept_ids)
        kept = kept[: kept.rfind("\n", 0, -1) + 1]
    return Piece(line, ids)


def split_budget(room: int, prefix: int, suffix: int, prefix_line: int, suffix_line: int) -> tuple[int, int]:
    """Tokens for prefix and suffix when both together exceed ``room``.

    The suffix gets a quarter, and what the prefix leaves over; both keep the cursor's line if the two
    parts of it fit together.

    Args:
        room: tokens for both.
        prefix: tokens of the whole prefix, or any number above ``room``.
        suffix: tokens of the whole suffix, or any number above what it can get.
        prefix_line: tokens of the cursor's line before the cursor.
        suffix_line: tokens of the cursor's line after it.
    """
    quarter = room // SUFFIX_SHARE
    for_suffix = max(quarter, room - prefix)
    if prefix_line + suffix_line <= room:
        for_suffix = min(max(for_suffix, suffix_line), room - prefix_line)
    for_suffix = min(for_suffix, suffix)
    return room - for_suffix, for_suffix


@dataclass(frozen=True, slots=True)
class _Side:
    """The side of a text that is kept."""

    chars: Callable[[str, int], str]
    ids: Callable[[list[int], int], list[int]]


_END = _Side(lambda text, n: text[len(text) - n :], lambda ids, n: ids[len(ids) - n :])
_START = _Side(lambda text, n: text[:n], lambda ids, n: ids[:n])


def _estimate(tokenizer: Tokenizer, text: str, limit: int, side: _Side) -> int:
    """About how many characters from one side of ``text`` are ``limit`` tokens."""
    seen = max(limit, 1) * _CHARS_PER_TOKEN
    while True:
        near = side.chars(text, min(seen, len(text)))
        ids = tokenizer.encode(near)
        if len(ids) >= limit or len(near) == len(text):
            return min(len(near), len(tokenizer.decode(side.ids(ids, min(limit, len(ids))))))
        seen *= 2


def _inside(tokenizer: Tokenizer, line: str, limit: int, side: _Side) -> Piece:
    """One side of a line that does not fit, cut wherever the tokens end."""
    length = _estimate(tokenizer, line, limit, side)
    while True:
        kept = side.chars(line, length)
        ids = tokenizer.encode(kept)
        if len(ids) <= limit:
            return Piece(kept, ids)
        length -= len(ids) - limit
