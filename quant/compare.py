"""Several models made from one original, in one run: which loses least for its size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cg.quant.evaluation import Candidate, evaluate
from cg.quant.evaluation_text import EvaluationText, read_held_out
from cg.quant.material import VerifyOptions
from cg.quant.report import Totals, total
from cg.quant.steps import Progress
from cg.quant.verification import Computed, Run, Section
from cg.runtime.errors import UsageError

__all__ = ["ComparedModel", "Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One of the models."""

    name: str
    folder: Path
    file_bytes: int
    """Of the safetensors files."""
    totals: Totals
    run: Run
    provenance: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.totals.bits_per_weight,
            "relative_error": self.totals.relative_error,
            "snr_db": self.totals.distortion.snr_db,
            "run": asdict(self.run),
            "provenance": self.provenance,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The models in the order in which they were named."""

    original: Path
    original_bytes: int
    sections: tuple[Section, ...]
    models: tuple[ComparedModel, ...]
    reference: Computed
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``; documented in docs/reference/verification.md."""
        return {
            "original": str(self.original),
            "original_bytes": self.original_bytes,
            "sections": [asdict(section) for section in self.sections],
            "models": [model.to_json() for model in self.models],
            "reference": asdict(self.reference),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def compare(
    models: Sequence[Path],
    original: Path,
    texts: Sequence[EvaluationText] = (),
    options: VerifyOptions | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Hold every model against the original, which is computed once.

    A model is any folder with the original's shapes: quantized, or floats that another program wrote.

    Raises:
        UsageError: no model, both kinds of activations, or see :func:`cg.quant.verify.verify`.
        CgError: as there.
    """
    options = options or VerifyOptions()
    started = time.perf_counter()
    folders = list(dict.fromkeys(models))
    if not folders:
        raise UsageError("no model to compare", hint="name one or more folders")
    if options.activations == "both":
        raise UsageError("models are compared with one kind of activations", hint="use int8 or f32")
    names = _names(folders)
    candidates = [
        Candidate(folder, name, options.activations) for folder, name in zip(folders, names, strict=True)
    ]
    found = evaluate(original, candidates, texts or (read_held_out(),), options, progress)
    return Comparison(
        original=original,
        original_bytes=found.original_bytes,
        sections=found.sections,
        models=tuple(
            ComparedModel(
                c.candidate.name, c.candidate.folder, c.file_bytes, total(c.tensors), c.run, c.provenance
            )
            for c in found.candidates
        ),
        reference=found.reference,
        notes=found.notes,
        seconds=time.perf_counter() - started,
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or whole paths where two have the same name."""
    names = [folder.name for folder in folders]
    return [str(folder) if names.count(folder.name) > 1 else folder.name for folder in folders]
