"""What is scored: token ids, and from where on the model has to predict them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cg.quant.evaluation_text import Chunks
from cg.quant.holes import Hole
from cg.runtime.errors import ContextLengthError
from cg.runtime.prompts.fim import build_fim
from cg.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Passage", "Prompt", "chunk_passages", "cut_prompts", "middle_passages"]


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """Token ids ``[T]``. The logits at positions ``first .. T - 2`` predict the tokens after them."""

    ids: NDArray[np.int32]
    first: int

    def __len__(self) -> int:
        """Tokens."""
        return len(self.ids)

    @property
    def scored(self) -> slice:
        """The positions whose logits are scored."""
        return slice(self.first, len(self.ids) - 1)

    @property
    def targets(self) -> NDArray[np.int32]:
        """The tokens that are predicted there."""
        return self.ids[self.first + 1 :]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A hole as the model sees it: the prompt, and what stood in the hole."""

    ids: tuple[int, ...]
    middle_ids: tuple[int, ...]
    before: str
    """What stands in the hole's line before it."""
    middle: str


def chunk_passages(chunks: Chunks) -> list[Passage]:
    """One passage per chunk."""
    return [Passage(row, chunks.first) for row in chunks.ids]


def cut_prompts(tokenizer: Tokenizer, holes: Sequence[Hole], context: int, new_tokens: int) -> list[Prompt]:
    """The holes as prompts in the order that ``cg complete`` uses by default (PSM).

    A prompt is cut, as there, so that the middle and also ``new_tokens`` fit ``context`` behind it. Holes
    whose middle is longer than half the context are left out.

    Raises:
        TokenizerError: the model has no tokens for fill-in-the-middle.
    """
    prompts = []
    for hole in holes:
        middle = tokenizer.encode(hole.middle)
        if not 0 < len(middle) <= context // 2:
            continue
        budget = context - max(len(middle), new_tokens)
        try:
            prompt = build_fim(tokenizer, hole.prefix, hole.suffix, mode="psm", budget=budget)
        except ContextLengthError:
            continue
        prompts.append(Prompt(tuple(prompt.ids), tuple(middle), hole.prefix.rpartition("\n")[2], hole.middle))
    return prompts


def middle_passages(prompts: Sequence[Prompt]) -> list[Passage]:
    """The middles behind their prompts, of which every token is scored."""
    return [Passage(np.array([*p.ids, *p.middle_ids], np.int32), len(p.ids) - 1) for p in prompts]
