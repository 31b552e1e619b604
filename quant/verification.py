"""What ``cg verify`` finds out, and what counts as good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cg.quant.agreement import Agreement
from cg.quant.report import TensorReport, Totals
from cg.quant.statistics import Estimate, Figures, TokenScores, mean_of
from cg.runtime.errors import UsageError, VerificationError
from cg.runtime.ops import Ops

__all__ = ["Computed", "Parts", "Run", "Section", "Thresholds", "Verification"]


@dataclass(frozen=True, slots=True)
class Section:
    """What is scored together: a text, or middles cut out of it."""

    kind: str
    """``text`` for a user's files, the language of a bundled text."""
    task: Literal["text", "middles"]
    text: str
    """Name of the text."""
    text_sha256: str
    context: int
    """Tokens per chunk; of a hole, at most, with its prompt."""
    passages: int
    """Chunks, or holes."""

    @property
    def title(self) -> str:
        """A heading."""
        return self.kind if self.task == "text" else f"{self.kind}, middles"


@dataclass(frozen=True, slots=True)
class Computed:
    """What computed a model."""

    backend: str
    isa: str
    threads: int
    activations: str

    @classmethod
    def by(cls, ops: Ops) -> Computed:
        """By these operations."""
        return cls(ops.name, ops.isa, ops.threads, ops.activations)


@dataclass(frozen=True, slots=True)
class Run:
    """One model beside the original."""

    computed: Computed
    figures: tuple[Figures, ...]
    """One per section."""
    overall: Figures
    """All texts together, middles not among them."""
    middles: Figures | None
    """All middles together; None without holes."""
    layers: tuple[float, ...]
    """See :attr:`cg.quant.streaming.Scored.layers`."""
    agreement: Agreement | None
    """Over the holes of all texts; None without holes."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the coarser weights cost, and what rounding activations to int8 adds to that, on one section.

    Errors come from the differences token by token.
    """

    kld_of_weights: Estimate
    kld_added: Estimate
    ln_ppl_ratio_of_weights: Estimate
    ln_ppl_ratio_added: Estimate

    @classmethod
    def of(cls, f32: TokenScores, int8: TokenScores) -> Parts:
        """From the scores of the same tokens with f32 and with int8 activations."""
        return cls(
            mean_of(f32.kld),
            mean_of(int8.kld - f32.kld),
            mean_of(f32.nll_quantized - f32.nll_original),
            mean_of(int8.nll_quantized - f32.nll_quantized),
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """The figures of one quantized model and how they came about."""

    quantized: Path
    original: Path
    sections: tuple[Section, ...]
    runs: tuple[Run, ...]
    """The first is what thresholds look at. With both activations, int8 before f32."""
    parts: tuple[Parts, ...]
    """One per section, if both activations were computed; else empty."""
    tensors: tuple[TensorReport, ...]
    totals: Totals
    original_bytes: int
    """Of the safetensors files."""
    quantized_bytes: int
    reference: Computed
    """What computed the original."""
    provenance: dict[str, str]
    """``__metadata__`` of the quantized file: who made it, from what, how."""
    notes: tuple[str, ...]
    """What was left out, and why."""
    seconds: float

    @property
    def run(self) -> Run:
        """The first run."""
        return self.runs[0]

    @property
    def figures(self) -> Figures:
        """Of the first run, over all texts."""
        return self.run.overall

    def to_json(self, thresholds: Thresholds) -> dict[str, Any]:
        """Plain values for ``--json``; documented in docs/reference/verification.md."""
        misses = thresholds.misses(self.run, self.sections)
        t = self.totals
        return {
            "quantized": str(self.quantized),
            "original": str(self.original),
            "figures": asdict(self.figures),
            "sections": [asdict(section) for section in self.sections],
            "runs": [asdict(run) for run in self.runs],
            "parts": [asdict(parts) for parts in self.parts],
            "sizes": {
                "original_bytes": self.original_bytes,
                "quantized_bytes": self.quantized_bytes,
                "parameters": t.parameters,
                "original_bits_per_weight": t.source_bits_per_weight,
                "bits_per_weight": t.bits_per_weight,
            },
            "relative_error": t.relative_error,
            "snr_db": t.distortion.snr_db,
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "reference": asdict(self.reference),
            "provenance": self.provenance,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "thresholds": asdict(thresholds),
            "passed": not misses,
            "misses": misses,
        }


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is still good enough. The figures themselves count, not their standard errors.

    Perplexity and divergence count on every text, not on middles, of which there are few tokens; agreement
    counts over all holes.

    Raises:
        UsageError: a threshold that is not a number of 0 or more, or an agreement above 1.
    """

    max_ppl_ratio: float | None = None
    max_kld: float | None = None
    min_agreement: float | None = None
    """Share of the holes that both models fill with the same text."""

    def __post_init__(self) -> None:
        for name, limit in (("perplexity ratio", self.max_ppl_ratio), ("KL divergence", self.max_kld)):
            if limit is not None and not 0 <= limit < float("inf"):  # NaN fails as well
                raise UsageError(f"the limit of the {name} is {limit}, expected a number of 0 or more")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"the least agreement is {self.min_agreement}, expected a number from 0 to 1")

    def misses(self, run: Run, sections: Sequence[Section]) -> list[str]:
        """What is wrong with a run, one sentence each; empty when it is good enough."""
        texts = [(s, f) for s, f in zip(sections, run.figures, strict=True) if s.task == "text"]
        misses = []
        for section, figures in texts:
            where = f"{section.title}: " if len(texts) > 1 else ""
            held = (
                ("perplexity ratio", figures.ppl_ratio.value, self.max_ppl_ratio),
                ("mean KL divergence", figures.mean_kld.value, self.max_kld),
            )
            limits = [(name, value, limit) for name, value, limit in held if limit is not None]
            misses += [f"{where}{n} {v:.6g} is above {limit:g}" for n, v, limit in limits if v > limit]
        if self.min_agreement is not None:
            if run.agreement is None:
                raise UsageError("agreement was not measured", hint="use --holes with a number of 2 or more")
            share = run.agreement.equal.value
            if share < self.min_agreement:
                misses.append(f"agreement of completions {share:.6g} is below {self.min_agreement:g}")
        return misses

    def require(self, run: Run, sections: Sequence[Section]) -> None:
        """Raise :class:`VerificationError` unless a run is good enough."""
        misses = self.misses(run, sections)
        if misses:
            raise VerificationError("; ".join(misses))
