"""What quantizing lost: a quantized checkpoint beside its original, in figures that can be trusted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cg.quant.evaluation import Candidate, evaluate
from cg.quant.evaluation_text import EvaluationText, read_held_out
from cg.quant.material import DEFAULT_CHUNKS, DEFAULT_CONTEXT, DEFAULT_HOLES, VerifyOptions
from cg.quant.report import total
from cg.quant.steps import Progress
from cg.quant.verification import Parts, Thresholds, Verification

__all__ = [
    "DEFAULT_CHUNKS",
    "DEFAULT_CONTEXT",
    "DEFAULT_HOLES",
    "Thresholds",
    "Verification",
    "VerifyOptions",
    "verify",
]


def verify(
    quantized: Path,
    original: Path,
    texts: Sequence[EvaluationText] = (),
    options: VerifyOptions | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare a quantized checkpoint with the original that it was made from, on ``texts`` or bundled Python.

    Raises:
        CheckpointError: the two are not the same model.
        TokenizerError: they turn a text into different tokens.
        CalibrationOverlapError: a text repeats what the quantized model was calibrated on.
        UsageError: a text is too short, or an option impossible.
        BackendError: a backend is not available, or has no int8 activations.
        NonFiniteError: a model computes NaN or infinity.
    """
    options = options or VerifyOptions()
    started = time.perf_counter()
    texts = texts or (read_held_out(),)
    ways = (
        [Candidate(quantized, "int8", "int8"), Candidate(quantized, "f32", "f32")]
        if options.activations == "both"
        else [Candidate(quantized, "quantized", options.activations)]
    )
    found = evaluate(original, ways, texts, options, progress)
    first, *second = found.candidates
    parts = [
        Parts.of(f32, int8) for other in second for int8, f32 in zip(first.scores, other.scores, strict=True)
    ]
    return Verification(
        quantized=quantized,
        original=original,
        sections=found.sections,
        runs=tuple(candidate.run for candidate in found.candidates),
        parts=tuple(parts),
        tensors=first.tensors,
        totals=total(first.tensors),
        original_bytes=found.original_bytes,
        quantized_bytes=first.file_bytes,
        reference=found.reference,
        provenance=first.provenance,
        notes=found.notes,
        seconds=time.perf_counter() - started,
    )
