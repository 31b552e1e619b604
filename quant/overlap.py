"""Whether one text repeats passages of another, told from a sketch of that other text.

A quantized file carries a sketch of the text that it was calibrated on, so that it is not verified on the
same text. The sketch holds hashes of windows of :data:`WINDOW` words, thinned by winnowing: of so many
consecutive windows the one with the least hash is kept. A passage in common is therefore found for certain
if it has :attr:`Overlap.certain` words or more, and a shorter one, of a window or more, with some luck.
Words are what begins with a letter: white space, line breaks, punctuation, numbers and upper case make no
difference. Left out is what unrelated files share: imports, comments that tell copyright or license, and
windows with few different words.

Source: Schleimer, Wilkerson, Aiken, Winnowing: Local Algorithms for Document Fingerprinting, SIGMOD 2003.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cg.runtime.errors import CalibrationOverlapError, InvalidHeaderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SKETCH_KEY", "WINDOW", "Overlap", "overlap", "refuse_overlap", "sketch"]

SKETCH_KEY = "cg.calibration_sketch"
"""Where a quantized file's metadata has the sketch of its calibration text."""

WINDOW = 20
"""Words hashed together."""

_DIFFERENT = WINDOW // 2  # a window with fewer different words says too little
_THINNING = 17  # windows of which one is kept; a longer text has more
_MOST_HASHES = 4096  # 32 KiB of sketch
_HASH_BYTES = 6
_BLOCK = 1 << 16  # windows looked at together, to bound memory
_NO_HASH = np.uint64(2**64 - 1)
_VERSION = "1"
_LINE = 100  # characters of an example

_WORD = re.compile(r"\b[^\W\d]\w*")
_COMMENT = re.compile(
    r"^[ \t]*(?:/\*.{0,8000}?\*/|<!--.{0,8000}?-->)|^(?:[ \t]*(?://|#|\*|--|;|%)[^\n]*(?:\n|\Z))+",
    re.DOTALL | re.MULTILINE,
)
_NOTICE = re.compile(r"copyright|licen[cs]e|all rights reserved", re.IGNORECASE)
_IMPORT = re.compile(
    r"""^[ \t]*(?:
        (?: import\b | from\s+\S+\s+import\b | (?:pub\s+)?use\s+\w+:: | \#[ \t]*include\b )
        [^\n({]* (?: [({] [^)}]{0,2000} [)}] )? [^\n]*  # with the list in brackets that begins on the line
      | (?: extern\s+crate | package | using(?:\s+namespace)? ) \s+ [\w.:]+ \s* ;? [ \t]* $
      | (?:const|let|var)\b [^=\n]* = [ \t]* require\b [^\n]*
    )""",
    re.MULTILINE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of a text repeats the sketched one."""

    windows: int
    """Windows of the text."""
    matching: int
    """Those of them whose hash is in the sketch; about one in nine of what is repeated is kept there."""
    certain: int
    """A passage in common of so many words is found for certain."""
    line: int
    """Where the first match begins, from 1; 0 if there is none."""
    example: str
    """That line, or what of it fits a message."""

    @property
    def share(self) -> float:
        """Of the windows, how many match."""
        return self.matching / self.windows if self.windows else 0.0


def sketch(text: str) -> str:
    """What :func:`overlap` needs to know of a text: at most 33 KB of ASCII, whatever the text's length."""
    hashes = _window_hashes(_words(text)[0])
    hashes = hashes[hashes != _NO_HASH]
    thinning = _THINNING
    kept = _winnow(hashes, thinning)
    while len(kept) > _MOST_HASHES:
        thinning = thinning * len(kept) // _MOST_HASHES + 1
        kept = _winnow(hashes, thinning)
    data = kept.astype(">u8").view(np.uint8).reshape(-1, 8)[:, -_HASH_BYTES:]
    return f"{_VERSION}:{thinning}:{base64.b64encode(data.tobytes()).decode()}"


def overlap(sketched: str, text: str) -> Overlap:
    """Look for passages of the sketched text in ``text``.

    Raises:
        InvalidHeaderError: that is no sketch.
    """
    thinning, kept = _parse(sketched)
    ids, starts = _words(text)
    hashes = _window_hashes(ids)
    matches = np.isin(hashes, kept).nonzero()[0]
    line, example = 0, ""
    if len(matches):
        start = int(starts[matches[0]])
        line = text.count("\n", 0, start) + 1
        example = text[text.rfind("\n", 0, start) + 1 :].split("\n", 1)[0].strip()[:_LINE]
    return Overlap(len(hashes), len(matches), WINDOW + thinning - 1, line, example)


def refuse_overlap(sketched: str, text: str, name: str) -> None:
    """Refuse a text of that name if it repeats passages of the sketched calibration text.

    Raises:
        CalibrationOverlapError: it does.
        InvalidHeaderError: that is no sketch.
    """
    found = overlap(sketched, text)
    if found.matching:
        raise CalibrationOverlapError(
            f"{name} repeats text that the model was calibrated on, for the first time in line {found.line}: "
            f"{found.example}",
            hint="verify on another text: on this one the model looks better than it is",
        )


def _parse(sketched: str) -> tuple[int, NDArray[np.uint64]]:
    """The thinning, and the hashes, sorted."""
    try:
        version, thinning, encoded = sketched.split(":")
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        version, thinning, data = "", "", b""
    if version != _VERSION or not re.fullmatch("[1-9][0-9]{0,8}", thinning) or len(data) % _HASH_BYTES:
        raise InvalidHeaderError(
            "the header's sketch of the calibration text is malformed, or of another version of cg",
            hint="quantize the model again",
        )
    wide = np.zeros((len(data) // _HASH_BYTES, 8), np.uint8)
    wide[:, -_HASH_BYTES:] = np.frombuffer(data, np.uint8).reshape(-1, _HASH_BYTES)
    return int(thinning), wide.view(">u8").reshape(-1).astype(np.uint64)


def _words(text: str) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A hash per word that counts, and where the word begins."""
    text = _COMMENT.sub(lambda found: _blank(found) if _NOTICE.search(found[0]) else found[0], text)
    text = _IMPORT.sub(_blank, text)
    known: dict[str, int] = {}
    hashes: list[int] = []
    starts: list[int] = []
    for found in _WORD.finditer(text):
        word = found[0].lower()
        number = known.get(word)
        if number is None:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            number = known[word] = int.from_bytes(digest, "big")
        hashes.append(number)
        starts.append(found.start())
    return np.array(hashes, np.uint64), np.array(starts, np.int64)


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _window_hashes(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of 48 bits for every window, ``[words - WINDOW + 1]``; no hash where too few words differ."""
    count = max(len(words) - WINDOW + 1, 0)
    sums = np.zeros(count, np.uint64)
    for place in range(WINDOW):  # a polynomial in an odd number, modulo 2**64
        sums = sums * np.uint64(0x9E3779B97F4A7C15) + words[place : place + count]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64: spread the bits
        sums = (sums ^ (sums >> np.uint64(shift))) * np.uint64(factor)
    hashes = sums >> np.uint64(64 - 8 * _HASH_BYTES)
    for begin in range(0, count, _BLOCK):
        end = min(begin + _BLOCK, count)
        view = np.lib.stride_tricks.sliding_window_view(words[begin : end + WINDOW - 1], WINDOW)
        different = 1 + np.count_nonzero(np.diff(np.sort(view, axis=1), axis=1), axis=1)
        hashes[begin:end][different < _DIFFERENT] = _NO_HASH
    return hashes


def _winnow(hashes: NDArray[np.uint64], thinning: int) -> NDArray[np.uint64]:
    """The least hash of any ``thinning`` consecutive ones, sorted, each once."""
    thinning = min(thinning, len(hashes))
    least, width = hashes, 1
    while 2 * width <= thinning:
        least = np.minimum(least[:-width], least[width:])
        width *= 2
    if width < thinning:
        rest = thinning - width
        least = np.minimum(least[:-rest], least[rest:])
    return np.unique(least)
