"""One original and the models made from it, on the same texts: for ``cg verify`` and ``cg compare``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from cg.quant.agreement import (
    Agreement,
    Decoding,
    compare_completions,
    complete_greedily,
    completion_steps,
)
from cg.quant.evaluation_text import EvaluationText
from cg.quant.material import Material, VerifyOptions, gather
from cg.quant.overlap import SKETCH_KEY, refuse_overlap
from cg.quant.report import TensorReport
from cg.quant.statistics import TokenScores, summarize
from cg.quant.steps import Progress, Steps
from cg.quant.streaming import Scored, Side, score_passages, scoring_steps
from cg.quant.tensor_distortion import measure_tensors, tensor_steps
from cg.quant.verification import Computed, Run, Section
from cg.runtime.config import GemmaConfig
from cg.runtime.errors import CheckpointError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.ops import Activations, Backend
from cg.runtime.prompts.chat import ChatTemplate
from cg.runtime.prompts.fim import stop_ids

__all__ = ["Candidate", "Evaluated", "Evaluation", "evaluate"]

_MAY_DIFFER = {"max_position_embeddings", "eos_token_ids"}  # neither enters the computation


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to hold against the original, and how to compute it."""

    folder: Path
    name: str
    """For the progress."""
    activations: Activations | None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """What was found out about one candidate."""

    candidate: Candidate
    run: Run
    scores: tuple[TokenScores, ...]
    """One per section."""
    tensors: tuple[TensorReport, ...]
    file_bytes: int
    """Of the safetensors files."""
    provenance: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What was found out, and on what."""

    sections: tuple[Section, ...]
    candidates: tuple[Evaluated, ...]
    reference: Computed
    original_bytes: int
    notes: tuple[str, ...]


def evaluate(
    original: Path,
    candidates: Sequence[Candidate],
    texts: Sequence[EvaluationText],
    options: VerifyOptions,
    progress: Progress | None = None,
) -> Evaluation:
    """Hold every candidate against the original; what the original computes is computed once.

    Raises:
        CheckpointError: a candidate is not the same model.
        TokenizerError: it turns a text into different tokens.
        CalibrationOverlapError: a text repeats what a candidate was calibrated on.
        UsageError: a text is too short, or an option impossible.
        NonFiniteError: a model computes NaN or infinity.
    """
    with ExitStack() as stack:
        folders = dict.fromkeys([original, *(c.folder for c in candidates)])
        opened = {folder: stack.enter_context(Checkpoint.open(folder)) for folder in folders}
        for checkpoint in opened.values():
            _check_texts(checkpoint, texts)
        reference = options.reference_backend or options.backend
        base = _side("original", opened[original], options, reference, "f32")
        sides = [_side(c.name, opened[c.folder], options, options.backend, c.activations) for c in candidates]
        for side in sides:
            _check_same_shape(base, side)
        limit = min(side.model.config.max_position_embeddings for side in (base, *sides))
        material = gather(opened, base.model.config.vocab_size, limit, texts, options)
        return _measure(base, sides, candidates, material, options, progress)


def _check_texts(checkpoint: Checkpoint, texts: Sequence[EvaluationText]) -> None:
    """Refuse to score a model on what it was calibrated on."""
    sketched = checkpoint.metadata.get(SKETCH_KEY)
    if sketched is not None:
        for text in texts:
            refuse_overlap(sketched, text.text, text.name)


def _measure(
    base: Side,
    sides: Sequence[Side],
    candidates: Sequence[Candidate],
    material: Material,
    options: VerifyOptions,
    progress: Progress | None,
) -> Evaluation:
    config, decoding = base.model.config, _decoding(base, material, options)
    # A checkpoint that is computed in two ways has its tensors compared once.
    checkpoints = {side.checkpoint: side for side in sides}
    total = sum(tensor_steps(base.checkpoint, checkpoint) for checkpoint in checkpoints)
    total += scoring_steps(config, 1 + len(sides), material.passages)
    if material.prompts:
        total += (1 + len(sides)) * completion_steps(config, material.prompts, decoding)
    steps = Steps(total, progress)
    tensors = {c: measure_tensors(base, side, steps, options.threads) for c, side in checkpoints.items()}
    scored = score_passages(base, sides, material.passages, hidden_bytes=options.hidden_bytes, steps=steps)
    agreements = _agreements(base, sides, material, decoding, steps)
    evaluated = []
    for candidate, side, found, agreement in zip(candidates, sides, scored, agreements, strict=True):
        scores = material.by_section(found.passages)
        run = _run(side, material.sections, scores, found, agreement)
        checkpoint = side.checkpoint
        evaluated.append(
            Evaluated(
                candidate, run, scores, tensors[checkpoint], checkpoint.nbytes, dict(checkpoint.metadata)
            )
        )
    return Evaluation(
        material.sections,
        tuple(evaluated),
        Computed.by(base.model.ops),
        base.checkpoint.nbytes,
        material.notes,
    )


def _run(
    side: Side,
    sections: Sequence[Section],
    scores: Sequence[TokenScores],
    found: Scored,
    agreement: Agreement | None,
) -> Run:
    def pooled(task: str) -> TokenScores:
        return TokenScores.concatenate(
            [s for section, s in zip(sections, scores, strict=True) if section.task == task]
        )

    return Run(
        computed=Computed.by(side.model.ops),
        figures=tuple(summarize(s) for s in scores),
        overall=summarize(pooled("text")),
        middles=None if agreement is None else summarize(pooled("middles")),
        layers=found.layers,
        agreement=agreement,
    )


def _agreements(
    base: Side, sides: Sequence[Side], material: Material, decoding: Decoding, steps: Steps
) -> Iterable[Agreement | None]:
    """One per side; the original completes once."""
    prompts = material.prompts
    if not prompts:
        return [None] * len(sides)
    expected = complete_greedily(base, prompts, decoding, steps)
    found = [complete_greedily(side, prompts, decoding, steps) for side in sides]
    return [
        Agreement.of(compare_completions(material.tokenizer, prompts, expected, answers)) for answers in found
    ]


def _decoding(base: Side, material: Material, options: VerifyOptions) -> Decoding:
    tokenizer, folder = material.tokenizer, base.checkpoint.folder
    chat = ChatTemplate.load(folder, tokenizer).has_template
    stops = stop_ids(tokenizer, chat=chat, eos_ids=base.model.config.eos_token_ids)
    return Decoding(material.new_tokens, stops, tokenizer.vocab_size, options.hidden_bytes)


def _side(
    name: str,
    checkpoint: Checkpoint,
    options: VerifyOptions,
    backend: Backend,
    activations: Activations | None,
) -> Side:
    model = load_gemma(checkpoint, backend=backend, threads=options.threads, activations=activations)
    return Side(name, checkpoint, model)


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
