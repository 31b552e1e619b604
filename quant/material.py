"""From texts to what the models are asked: chunks and holes as token ids, the same for every model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cg.quant.evaluation_text import EvaluationText, cut_chunks
from cg.quant.holes import cut_holes
from cg.quant.passages import Passage, Prompt, chunk_passages, cut_prompts, middle_passages
from cg.quant.statistics import TokenScores
from cg.quant.verification import Section
from cg.runtime.errors import ContextLengthError, TokenizerError, UsageError
from cg.runtime.ops import Activations, Backend
from cg.runtime.prompts.fim import FimTokens
from cg.runtime.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_CHUNKS",
    "DEFAULT_CONTEXT",
    "DEFAULT_HOLES",
    "HOLE_CONTEXT",
    "NEW_TOKENS",
    "Material",
    "VerifyOptions",
    "gather",
]

DEFAULT_CONTEXT = 512
DEFAULT_CHUNKS = 16
DEFAULT_HOLES = 8

HOLE_CONTEXT = 256
"""Tokens of a hole's prompt and what comes into it, at most."""
NEW_TOKENS = 24
"""Tokens that a model writes into a hole, at most."""

_MIN_HOLES = 2  # fewer have no standard error


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to compare. The original always runs with float32 activations.

    Key-value caches are float32 where a text is scored; where models write, float16 as in ``cg complete``.
    """

    context: int | None = None
    """Tokens per chunk; None is 512, or what the models take if that is less."""
    chunks: int | None = DEFAULT_CHUNKS
    """Evaluate this many chunks of each text at most; None is the whole text."""
    backend: Backend = "auto"
    threads: int | None = None
    activations: Activations | Literal["both"] | None = None
    """Of the quantized model; None is what the backend does by default, as in ``cg complete``."""
    reference_backend: Backend | None = None
    """What computes the original; None is ``backend``."""
    holes: int | None = None
    """Holes cut out of each text; 0 is off. None is 8, or 0 for a model that cannot fill in the middle."""
    hidden_bytes: int = 512 << 20
    """Room for hidden states, and for key-value caches. The rest waits for another pass over the weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Everything that the models are asked."""

    tokenizer: Tokenizer
    sections: tuple[Section, ...]
    passages: tuple[Passage, ...]
    """Those of all sections, in order."""
    prompts: tuple[Prompt, ...]
    """The holes of all texts."""
    new_tokens: int
    """Tokens that a model writes into a hole, at most."""
    notes: tuple[str, ...]

    def by_section(self, scores: Sequence[TokenScores]) -> tuple[TokenScores, ...]:
        """Join the scores of the passages to those of the sections."""
        joined, start = [], 0
        for section in self.sections:
            joined.append(TokenScores.concatenate(scores[start : start + section.passages]))
            start += section.passages
        return tuple(joined)


def gather(
    folders: Iterable[Path],
    vocab_size: int,
    limit: int,
    texts: Sequence[EvaluationText],
    options: VerifyOptions,
) -> Material:
    """Cut the texts into chunks and holes.

    Args:
        folders: of all models, the original's first; they must turn the texts into the same tokens.
        limit: tokens that the models take at most.

    Raises:
        TokenizerError: they do not, or the tokenizer does not belong to the model.
        ContextLengthError: the context is longer than the limit.
        UsageError: a text is too short, or an option impossible.
    """
    context = min(DEFAULT_CONTEXT, limit) if options.context is None else options.context
    if context > limit:
        raise ContextLengthError(f"a context of {context} tokens: these models take at most {limit}")
    if options.holes is not None and options.holes != 0 and options.holes < _MIN_HOLES:
        raise UsageError(f"{options.holes} holes, expected 0 or at least {_MIN_HOLES}")
    first, *others = folders
    tokenizer = Tokenizer.load(first)
    other_tokenizers = [(folder, Tokenizer.load(folder)) for folder in others]
    holes, notes = _hole_count(tokenizer, options)
    hole_context = min(HOLE_CONTEXT, limit)
    new_tokens = min(NEW_TOKENS, hole_context // 2)
    sections: list[Section] = []
    passages: list[Passage] = []
    prompts: list[Prompt] = []
    for text in texts:
        ids = _encode(text, tokenizer, first, other_tokenizers, vocab_size)
        chunks = chunk_passages(cut_chunks(ids, tokenizer.bos_id, context, options.chunks))
        sections.append(Section(text.kind, "text", text.name, text.sha256, context, len(chunks)))
        passages += chunks
        if not holes:
            continue
        of_text = cut_prompts(tokenizer, cut_holes(text.text, holes), hole_context, new_tokens)
        if len(of_text) < _MIN_HOLES:
            raise UsageError(
                f"{text.name}: the text is too short for {_MIN_HOLES} holes",
                hint="use --holes 0, or a longer text",
            )
        sections.append(Section(text.kind, "middles", text.name, text.sha256, hole_context, len(of_text)))
        passages += middle_passages(of_text)
        prompts += of_text
    return Material(tokenizer, tuple(sections), tuple(passages), tuple(prompts), new_tokens, notes)


def _hole_count(tokenizer: Tokenizer, options: VerifyOptions) -> tuple[int, tuple[str, ...]]:
    if options.holes is not None:
        return options.holes, ()
    try:
        FimTokens.from_tokenizer(tokenizer)
    except TokenizerError as error:
        return 0, (f"no holes: {error.message}",)
    return DEFAULT_HOLES, ()


def _encode(
    text: EvaluationText,
    tokenizer: Tokenizer,
    folder: Path,
    others: Iterable[tuple[Path, Tokenizer]],
    vocab_size: int,
) -> list[int]:
    ids = tokenizer.encode(text.text)
    for other_folder, other in others:
        if tokenizer.bos_id != other.bos_id or ids != other.encode(text.text):
            raise TokenizerError(
                f"{folder} and {other_folder} turn the same text into different tokens",
                hint="copy the original's tokenizer files next to the quantized model",
            )
    if max(ids, default=0) >= vocab_size:
        raise TokenizerError(
            f"{folder}: the text has token {max(ids)}, the model only a vocabulary of {vocab_size}",
            hint="do the tokenizer files belong to this model?",
        )
    return ids
