"""The figures of ``cg verify`` for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cg.quant.statistics import Estimate, Figures
    from cg.quant.verify import Verification

__all__ = ["circumstances", "conclusion", "rows"]

_SIGNIFICANT = 2  # standard errors


def rows(figures: Figures) -> list[tuple[str, str, str]]:
    """Name, value and standard error of each figure."""
    return [
        _row("perplexity, original", figures.ppl_original, 4),
        _row("perplexity, quantized", figures.ppl_quantized, 4),
        _row("perplexity ratio", figures.ppl_ratio, 5),
        _row("ln of the ratio", figures.ln_ppl_ratio, 5),
        _row("mean KL divergence (nats)", figures.mean_kld, 5),
        _row("same likeliest token", figures.same_top, 2, factor=100, unit=" %"),
    ]


def conclusion(figures: Figures) -> str:
    """The figures in one plain sentence."""
    if figures.mean_kld.value == 0:
        return "The two models give the same probabilities."
    ratio, ln_ratio = figures.ppl_ratio, figures.ln_ppl_ratio
    size = f"{100 * abs(ratio.value - 1):.2f} % ± {100 * ratio.error:.2f} %"
    direction = "higher" if ln_ratio.value > 0 else "lower"
    doubt = "" if abs(ln_ratio.value) > _SIGNIFICANT * ln_ratio.error else ", no more than chance explains"
    share = f"{100 * figures.same_top.value:.1f} %"
    return (
        f"The quantized model's perplexity is {size} {direction}{doubt}; "
        f"in {share} of the cases both models hold the same next token for the likeliest."
    )


def circumstances(result: Verification) -> str:
    """On what and how the figures were measured."""
    backend = f"{result.backend} {result.isa}" if result.backend == "native" else result.isa
    tokens = f"{result.figures.tokens:,} tokens scored of {result.chunks * result.context:,}"
    return (
        f"{tokens} in chunks of {result.context}, from {result.text}; "
        f"{backend}, threads: {result.threads}, {result.activations} activations, {result.seconds:.1f} s"
    )


def _row(
    name: str, estimate: Estimate, digits: int, factor: float = 1, unit: str = ""
) -> tuple[str, str, str]:
    value, error = (f"{factor * x:.{digits}f}{unit}" for x in (estimate.value, estimate.error))
    return name, value, error
