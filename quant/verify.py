"""What quantizing lost: two checkpoints on the same text, in perplexity and divergence."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path

from cg.quant.evaluation_text import Chunks, EvaluationText, cut_chunks, read_text
from cg.quant.statistics import Figures, summarize
from cg.quant.streaming import Progress, Side, score_chunks
from cg.runtime.config import GemmaConfig
from cg.runtime.errors import (
    CheckpointError,
    ContextLengthError,
    TokenizerError,
    UsageError,
    VerificationError,
)
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.models.gemma import Gemma
from cg.runtime.ops import Activations, Backend
from cg.runtime.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_CHUNKS",
    "DEFAULT_CONTEXT",
    "Thresholds",
    "Verification",
    "VerifyOptions",
    "verify",
]

DEFAULT_CONTEXT = 512
DEFAULT_CHUNKS = 16

_MAY_DIFFER = {"max_position_embeddings", "eos_token_ids"}  # neither enters the computation


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to compare. The original always runs with float32 activations, key-value caches are float32."""

    context: int | None = None
    """Tokens per chunk; None is 512, or what the models take if that is less."""
    chunks: int | None = DEFAULT_CHUNKS
    """Evaluate this many chunks at most; None is the whole text."""
    backend: Backend = "auto"
    threads: int | None = None
    activations: Activations | None = None
    """Of the quantized model; None is what the backend does by default, as in ``cg complete``."""
    hidden_bytes: int = 512 << 20
    """Room for hidden states. Chunks that do not fit wait for a further pass over the weights."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is still good enough. The figures themselves count, not their standard errors.

    Raises:
        UsageError: a threshold that is not a number of 0 or more.
    """

    max_ppl_ratio: float | None = None
    max_kld: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("perplexity ratio", self.max_ppl_ratio), ("KL divergence", self.max_kld)):
            if limit is not None and not 0 <= limit < float("inf"):  # NaN fails as well
                raise UsageError(f"the limit of the {name} is {limit}, expected a number of 0 or more")

    def misses(self, figures: Figures) -> list[str]:
        """What is wrong with the figures, one sentence each; empty when they are good enough."""
        held = (
            ("perplexity ratio", figures.ppl_ratio.value, self.max_ppl_ratio),
            ("mean KL divergence", figures.mean_kld.value, self.max_kld),
        )
        limits = [(name, value, limit) for name, value, limit in held if limit is not None]
        return [f"{name} {value:.6g} is above {limit:g}" for name, value, limit in limits if value > limit]

    def require(self, figures: Figures) -> None:
        """Raise :class:`VerificationError` unless the figures are good enough."""
        misses = self.misses(figures)
        if misses:
            raise VerificationError("; ".join(misses))


@dataclass(frozen=True, slots=True)
class Verification:
    """The figures and how they came about."""

    figures: Figures
    quantized: Path
    original: Path
    text: str
    """Name of the evaluation text."""
    text_sha256: str
    context: int
    chunks: int
    backend: str
    isa: str
    threads: int
    activations: str
    """Of the quantized model."""
    provenance: dict[str, str]
    """``__metadata__`` of the quantized file: who made it, from what, how."""
    seconds: float


def verify(
    quantized: Path,
    original: Path,
    text: EvaluationText | None = None,
    options: VerifyOptions | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare a quantized checkpoint with the original that it was made from, on ``text`` or the bundled one.

    Raises:
        CheckpointError: the two are not the same model.
        TokenizerError: they turn the text into different tokens.
        UsageError: the text is too short, or an option impossible.
        NonFiniteError: a model computes NaN or infinity.
    """
    text = text or read_text()
    options = options or VerifyOptions()
    started = time.perf_counter()
    with Checkpoint.open(original) as first, Checkpoint.open(quantized) as second:
        base = Side("original", first, _model(first, options, "f32"))
        other = Side("quantized", second, _model(second, options, options.activations))
        _check_same_shape(base, other)
        chunks = _chunks(base, other, text, options)
        scores = score_chunks(base, other, chunks, hidden_bytes=options.hidden_bytes, progress=progress)
        ops = other.model.ops
        return Verification(
            figures=summarize(scores),
            quantized=quantized,
            original=original,
            text=text.name,
            text_sha256=text.sha256,
            context=chunks.context,
            chunks=len(chunks),
            backend=ops.name,
            isa=ops.isa,
            threads=ops.threads,
            activations=ops.activations,
            provenance=dict(second.metadata),
            seconds=time.perf_counter() - started,
        )


def _model(checkpoint: Checkpoint, options: VerifyOptions, activations: Activations | None) -> Gemma:
    return load_gemma(checkpoint, backend=options.backend, threads=options.threads, activations=activations)


def _check_same_shape(original: Side, quantized: Side) -> None:
    base, other = original.model.config, quantized.model.config
    differences = [
        f"{f.name} {getattr(other, f.name)} instead of {getattr(base, f.name)}"
        for f in fields(GemmaConfig)
        if f.name not in _MAY_DIFFER and getattr(base, f.name) != getattr(other, f.name)
    ]
    if differences:
        raise CheckpointError(
            f"{quantized.checkpoint.folder} was not made from {original.checkpoint.folder}: "
            + ", ".join(differences),
            hint="compare a quantized model with its own original",
        )


def _chunks(original: Side, quantized: Side, text: EvaluationText, options: VerifyOptions) -> Chunks:
    config = original.model.config
    limit = min(config.max_position_embeddings, quantized.model.config.max_position_embeddings)
    context = min(DEFAULT_CONTEXT, limit) if options.context is None else options.context
    if context > limit:
        raise ContextLengthError(f"a context of {context} tokens: these models take at most {limit}")
    folder, other_folder = original.checkpoint.folder, quantized.checkpoint.folder
    tokenizer, other_tokenizer = Tokenizer.load(folder), Tokenizer.load(other_folder)
    ids = tokenizer.encode(text.text)
    if tokenizer.bos_id != other_tokenizer.bos_id or ids != other_tokenizer.encode(text.text):
        raise TokenizerError(
            f"{folder} and {other_folder} turn the same text into different tokens",
            hint="copy the original's tokenizer files next to the quantized model",
        )
    if max(ids, default=0) >= config.vocab_size:
        raise TokenizerError(
            f"{folder}: the text has token {max(ids)}, the model only a vocabulary of {config.vocab_size}",
            hint="do the tokenizer files belong to this model?",
        )
    return cut_chunks(ids, tokenizer.bos_id, context, options.chunks)
