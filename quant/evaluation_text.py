"""The text on which two models are compared, and its chunks of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cg.quant.text_files import read_utf8
from cg.runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "HELD_OUT",
    "MIN_CONTEXT",
    "Chunks",
    "EvaluationText",
    "cut_chunks",
    "read_held_out",
    "read_text",
]

HELD_OUT = {
    "python": "held_out_python.txt",
    "javascript": "held_out_javascript.txt",
    "java": "held_out_java.txt",
    "cpp": "held_out_cpp.txt",
    "go": "held_out_go.txt",
    "rust": "held_out_rust.txt",
}
"""The bundled texts by language; ``data/README.md`` says where they come from."""

_DATA = Path(__file__).parent / "data"

MIN_CONTEXT = 8
"""The shortest chunk: three of its tokens are scored."""


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """A text, where it comes from, and its hash."""

    name: str
    text: str
    sha256: str
    """Of its UTF-8 bytes."""
    kind: str = "text"
    """The heading of its figures: ``text`` for a user's files, the language of a bundled text."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Token ids ``[chunks, context]``, each row beginning with BOS, and where the scored half begins.

    The logits at positions ``first .. context - 2`` predict the tokens at ``first + 1 .. context - 1``.
    """

    ids: NDArray[np.int32]
    first: int

    def __len__(self) -> int:
        """Chunks."""
        return len(self.ids)

    @property
    def context(self) -> int:
        """Tokens per chunk."""
        return int(self.ids.shape[1])

    @property
    def scored(self) -> int:
        """Tokens scored per chunk."""
        return self.context - 1 - self.first

    def targets(self, chunk: int) -> NDArray[np.int32]:
        """The tokens of a chunk that are predicted and scored: ``[scored]``."""
        return self.ids[chunk, self.first + 1 :]


def read_text(files: Sequence[Path]) -> EvaluationText:
    """The files one after the other, as ``cat`` would join them.

    Raises:
        UsageError: a file cannot be read, or is not UTF-8.
    """
    return _text(", ".join(map(str, files)), "".join(map(read_utf8, files)), "text")


def read_held_out(language: str = "python") -> EvaluationText:
    """The bundled text of a language.

    Raises:
        UsageError: there is none.
    """
    if language not in HELD_OUT:
        raise UsageError(
            f"there is no bundled text in {language!r}",
            hint=f"use one of {', '.join(HELD_OUT)}, or --text with a file of your own",
        )
    return _text(f"bundled held-out {language}", read_utf8(_DATA / HELD_OUT[language]), language)


def _text(name: str, text: str, kind: str) -> EvaluationText:
    return EvaluationText(name, text, hashlib.sha256(text.encode("utf-8")).hexdigest(), kind)


def cut_chunks(ids: Sequence[int], bos_id: int, context: int, limit: int | None = None) -> Chunks:
    """Cut a text's ids into the first ``limit`` chunks of ``context`` tokens, as llama-perplexity does.

    BOS goes before the text; then the first token of every chunk is replaced by BOS, and what is left
    over at the end is dropped. The second half of each chunk is scored.

    Raises:
        UsageError: an impossible context or limit, or a text too short for one chunk.
    """
    if context < MIN_CONTEXT:
        raise UsageError(f"a context of {context} tokens is too short to score, use {MIN_CONTEXT} or more")
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} chunks to evaluate, expected 1 or more")
    stream = [bos_id, *ids]
    count = len(stream) // context
    if count == 0:
        raise UsageError(
            f"the text has {len(stream)} tokens, too few for one chunk of {context}",
            hint="use a longer text, or a smaller --context",
        )
    count = count if limit is None else min(count, limit)
    rows = np.array(stream[: count * context], np.int32).reshape(count, context)
    rows[:, 0] = bos_id
    return Chunks(rows, context // 2)
