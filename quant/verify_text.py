"""What ``cg verify`` found, in words and in rows of tables: for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cg.quant.agreement import Agreement
from cg.quant.statistics import PERCENTILES, Estimate, Figures
from cg.quant.verification import Computed, Parts, Section, Verification

__all__ = [
    "PARTS_HEADS",
    "agreement_line",
    "circumstances",
    "columns",
    "conclusion",
    "figure_rows",
    "layer_rows",
    "parts_rows",
    "percentile_rows",
    "show",
    "size",
    "where_lines",
]

_SIGNIFICANT = 2  # standard errors

_FIGURES = (
    ("perplexity, original", "ppl_original", 4, 1, ""),
    ("perplexity, quantized", "ppl_quantized", 4, 1, ""),
    ("perplexity ratio", "ppl_ratio", 5, 1, ""),
    ("ln of the ratio", "ln_ppl_ratio", 5, 1, ""),
    ("perplexity difference", "ppl_difference", 4, 1, ""),
    ("mean KL divergence (nats)", "mean_kld", 5, 1, ""),
    ("mean Δp", "mean_delta_p", 3, 100, " %"),
    ("RMS Δp", "rms_delta_p", 3, 100, " %"),
    ("same likeliest token", "same_top", 2, 100, " %"),
)
"""Name, field, digits, factor, unit."""

PARTS_HEADS = ("", "KLD, weights", "added by int8", "ln ratio, weights", "added by int8")
"""Of :func:`parts_rows`."""


def columns(result: Verification) -> list[tuple[str, Figures]]:
    """The figures of the first run under their headings: each section and, of several texts, all."""
    run = result.run
    named = [(s.title, figures) for s, figures in zip(result.sections, run.figures, strict=True)]
    if sum(s.task == "text" for s in result.sections) > 1:
        named.append(("all texts", run.overall))
        if run.middles is not None:
            named.append(("all middles", run.middles))
    return named


def figure_rows(figures: Sequence[Figures]) -> list[list[str]]:
    """A row per figure, a column for each of ``figures``."""
    rows = [
        [name, *(show(getattr(f, field), digits, factor, unit) for f in figures)]
        for name, field, digits, factor, unit in _FIGURES
    ]
    rows.append(["KL divergence, 99 %", *(f"{f.kld.p99:.5f}" for f in figures)])
    rows.append(["KL divergence, maximum", *(f"{f.kld.maximum:.5f}" for f in figures)])
    rows.append(["tokens scored", *(f"{f.tokens:,}" for f in figures)])
    return rows


def percentile_rows(figures: Sequence[Figures]) -> list[list[str]]:
    """All percentiles of the divergence and of Δp, from the greatest to the least."""
    names = [(_percentile_name(field), field) for field in reversed(PERCENTILES)]
    return [
        *(
            [f"KL divergence, {name}", *(f"{getattr(f.kld, field):.6f}" for f in figures)]
            for name, field in names
        ),
        *(
            [f"Δp, {name}", *(f"{100 * getattr(f.delta_p, field):.3f} %" for f in figures)]
            for name, field in names
        ),
    ]


def _percentile_name(field: str) -> str:
    return field if field in ("minimum", "median", "maximum") else f"{PERCENTILES[field]:g} %"


def parts_rows(sections: Sequence[Section], parts: Sequence[Parts]) -> list[list[str]]:
    """What the weights cost, and what int8 activations add."""
    return [
        [
            section.title,
            show(p.kld_of_weights, 5),
            show(p.kld_added, 5),
            show(p.ln_ppl_ratio_of_weights, 5),
            show(p.ln_ppl_ratio_added, 5),
        ]
        for section, p in zip(sections, parts, strict=True)
    ]


def layer_rows(layers: Sequence[float]) -> list[list[str]]:
    """The relative difference of the hidden states, layer by layer."""
    names = ["embedding", *(f"layer {i}" for i in range(1, len(layers)))]
    return [[name, f"{100 * value:.2f} %"] for name, value in zip(names, layers, strict=True)]


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


def agreement_line(agreement: Agreement) -> str:
    """How often both models write the same, in one sentence."""
    count = sum(c.equal for c in agreement.completions)
    return (
        f"Both write the same into {count} of {len(agreement.completions)} holes "
        f"({show(agreement.equal, 1, 100, ' %')}), and agree on the first {show(agreement.common_tokens, 1)} "
        f"of {agreement.original_tokens:.1f} tokens on average."
    )


def where_lines(result: Verification) -> Iterator[str]:
    """Where the loss arises, and what it bought."""
    totals, layers = result.totals, result.run.layers
    errors = {t.name: t.distortion.relative_error or 0.0 for t in result.tensors if t.distortion is not None}
    snr = totals.distortion.snr_db
    if snr is not None:
        worst = max(errors, key=errors.__getitem__)
        yield (
            f"Tensors: relative error {totals.relative_error:.4f} ({snr:.1f} dB), "
            f"the largest {errors[worst]:.4f} in {worst}."
        )
    yield (
        f"Hidden states: {100 * layers[1]:.2f} % off after the first layer, "
        f"{100 * layers[-1]:.2f} % after the last."
    )
    yield (
        f"Size: {size(result.original_bytes)} -> {size(result.quantized_bytes)}, "
        f"{totals.source_bits_per_weight:.2f} -> {totals.bits_per_weight:.2f} bits per weight."
    )


def circumstances(result: Verification) -> str:
    """On what and how the figures were measured."""
    texts = [s for s in result.sections if s.task == "text"]
    tokens = sum(s.passages * s.context for s in texts)
    names = ", ".join(dict.fromkeys(s.text for s in texts))
    activations = " and ".join(run.computed.activations for run in result.runs)
    reference = (
        "" if result.reference.isa == result.run.computed.isa else f"original by {_by(result.reference)}, "
    )
    return (
        f"{result.figures.tokens:,} tokens scored of {tokens:,} in chunks of {texts[0].context}, "
        f"from {names}; {reference}{_by(result.run.computed)}, threads: {result.run.computed.threads}, "
        f"{activations} activations, {result.seconds:.1f} s"
    )


def size(count: int) -> str:
    """Bytes in MB, or GB if there are many."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def show(estimate: Estimate, digits: int, factor: float = 1, unit: str = "") -> str:
    """A value with its standard error."""
    return f"{factor * estimate.value:.{digits}f} ± {factor * estimate.error:.{digits}f}{unit}"


def _by(computed: Computed) -> str:
    return f"{computed.backend} {computed.isa}" if computed.backend == "native" else computed.isa
