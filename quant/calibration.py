"""The text that quantizing is calibrated on, and its rows of tokens.

Activations are measured on what a model reads at work: beginnings of files, and fill-in-the-middle prompts
in the form that ``cg complete`` sends, followed by their answers. Files stand one after the other in a row,
with ``<|file_separator|>`` between them, as CodeGemma's training packed them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cg.quant.text_files import read_utf8
from cg.runtime.errors import UsageError
from cg.runtime.prompts.fim import FimTokens, build_fim, build_plain
from cg.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MIN_CONTEXT", "CalibrationText", "Document", "calibration_rows", "read_calibration"]

_BUNDLED = Path(__file__).parent / "data" / "calibration" / "documents.jsonl"

_BUNDLED_NAME = "bundled calibration text"

MIN_CONTEXT = 32
"""The shortest row: one fill-in-the-middle sample of a line or two."""

_MIN_FIM = 24  # tokens; less room than this at a row's end gets plain text
_PATH_SHARE = 0.75
_SPM_SHARE = 0.25  # ``cg complete`` sends PSM unless told otherwise
_LINE = re.compile(r"[^\n]{0,200}\n|[^\n]{1,200}")  # an endless line is several

_Draw = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Document:
    """A file's text, and the name that its path line gives it."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Documents, where they come from, and their hash."""

    name: str
    documents: tuple[Document, ...]
    sha256: str
    """Of the documents as JSON Lines, ``{"path": ..., "text": ...}`` each: of the bundled file as it is."""

    @property
    def title(self) -> str:
        """What a published file may tell of it: no paths."""
        return self.name if self.name == _BUNDLED_NAME else f"{len(self.documents)} files"

    @property
    def text(self) -> str:
        """All documents, one after the other."""
        return "\n".join(document.text for document in self.documents)


def read_calibration(files: Sequence[Path] = ()) -> CalibrationText:
    """One document per file; without files the bundled code in several languages.

    Raises:
        UsageError: a file cannot be read, or is not UTF-8.
    """
    if files:
        documents = tuple(Document(_path_line(file), read_utf8(file)) for file in files)
        name = ", ".join(map(str, files))
    else:
        lines = read_utf8(_BUNDLED).splitlines()
        documents = tuple(Document(**json.loads(line)) for line in lines)
        name = _BUNDLED_NAME
    digest = hashlib.sha256("".join(map(_to_json, documents)).encode())
    return CalibrationText(name, documents, digest.hexdigest())


def calibration_rows(
    text: CalibrationText, tokenizer: Tokenizer, context: int, limit_tokens: int, seed: int
) -> NDArray[np.int32]:
    """Rows of token ids, ``[rows, context]``: BOS at position 0 and nowhere else, no padding.

    Rows of plain code take turns with rows of fill-in-the-middle samples, three in four of these in PSM
    order and the others in SPM, each with its middle and the token that ends it. Three in four of all
    samples have a path line. A document longer than the rest of a row goes on in the next one. Without the
    tokens for fill-in-the-middle all rows are plain, and EOS stands between documents.

    The same arguments give the same rows.

    Args:
        limit_tokens: tokens in all rows together, at most. A shorter text gives fewer.

    Raises:
        UsageError: an impossible context or limit, or a text too short for one row.
    """
    if context < MIN_CONTEXT:
        raise UsageError(f"a context of {context} tokens is too short to calibrate on, use {MIN_CONTEXT}")
    if limit_tokens < context:
        raise UsageError(
            f"{limit_tokens} tokens to calibrate on, fewer than one row of {context}",
            hint="allow more tokens, or use a smaller context",
        )
    draw = random.Random(seed).random  # the one method whose numbers never change between versions
    samples = _Samples(_Lines(text.documents, tokenizer, draw), tokenizer, draw)
    rows: list[list[int]] = []
    while len(rows) < limit_tokens // context:
        row = samples.row(context, fim=len(rows) % 2 == 1)
        if len(row) < context:
            break
        rows.append(row)
    if not rows:
        raise UsageError(
            f"{text.name}: too few tokens for one row of {context}",
            hint="calibrate on more text, or use a smaller context",
        )
    return np.array(rows, np.int32)


class _Lines:
    """Hands out all documents once, in a drawn order, in pieces of whole lines."""

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer, draw: _Draw) -> None:
        self._tokenizer = tokenizer
        self._documents = deque(sorted(documents, key=lambda _: draw()))
        self._path = ""
        self._rest: deque[str] = deque()

    def take(self, tokens: int) -> Document | None:
        """The next lines of a document, with about ``tokens`` tokens or a few more, or what is left of it."""
        while not self._rest:
            if not self._documents:
                return None
            document = self._documents.popleft()
            if document.text.strip():
                self._path, self._rest = document.path, deque(_LINE.findall(document.text))
        lines: list[str] = []
        while self._rest and tokens > 0:
            lines.append(self._rest.popleft())
            tokens -= len(self._tokenizer.encode(lines[-1]))
        return Document(self._path, "".join(lines))


class _Samples:
    """Fills rows with samples made of the documents."""

    def __init__(self, lines: _Lines, tokenizer: Tokenizer, draw: _Draw) -> None:
        self._lines = lines
        self._tokenizer = tokenizer
        self._draw = draw
        self._can_fill = FimTokens.known_to(tokenizer)
        self._separator = tokenizer.eos_id
        if self._can_fill:
            self._separator = FimTokens.from_tokenizer(tokenizer).separator

    def row(self, context: int, *, fim: bool) -> list[int]:
        """One row; shorter than ``context`` if the documents are at their end."""
        row = [self._tokenizer.bos_id]
        while (room := context - len(row)) > 0 and (piece := self._lines.take(room)) is not None:
            fill = fim and self._can_fill and room >= _MIN_FIM
            row += self._fim(piece, room) if fill else self._plain(piece)
        return row[:context]

    def _plain(self, piece: Document) -> list[int]:
        """``path\\ntext<|file_separator|>``, or without the path line."""
        prompt = build_plain(self._tokenizer, piece.text, path=self._some(piece.path), budget=_UNLIMITED)
        return [*prompt.ids[1:], self._separator]

    def _fim(self, piece: Document, room: int) -> list[int]:
        """A prompt as ``cg complete`` builds and cuts it, then the middle and the token that ends it."""
        start, stop = self._hole(len(piece.text))
        while len(middle := self._tokenizer.encode(piece.text[start:stop])) > room // 2:
            stop = (start + stop) // 2
        prompt = build_fim(
            self._tokenizer,
            piece.text[:start],
            piece.text[stop:],
            mode="spm" if self._draw() < _SPM_SHARE else "psm",
            path=self._some(piece.path),
            budget=room - len(middle),  # counts BOS, which the row has already; the end takes its place
        )
        answer = [*prompt.ids[1:], *middle]
        ends_row = len(answer) + 1 == room
        return [*answer, self._tokenizer.eos_id if ends_row and self._draw() < 0.5 else self._separator]

    def _hole(self, length: int) -> tuple[int, int]:
        """Where to cut: anywhere, one character to a third of the text, each order of magnitude as likely."""
        size = int(max(length // 3, 1) ** self._draw())
        start = int(self._draw() * (length - size + 1))
        return start, start + size

    def _some(self, path: str) -> str | None:
        return path if self._draw() < _PATH_SHARE else None


_UNLIMITED = 1 << 40  # tokens


def _to_json(document: Document) -> str:
    return json.dumps({"path": document.path, "text": document.text}) + "\n"


def _path_line(file: Path) -> str:
    """A file's path as its user gave it; of one that leads elsewhere, the name alone."""
    path = file.name if file.is_absolute() or ".." in file.parts else file.as_posix()
    return "".join(c if c.isprintable() else "?" for c in path)  # names may hold line breaks, or be any bytes
