"""The report of ``cg verify``: figures, where the loss arises, what the models write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from cg import __version__
from cg.quant import verify_text
from cg.quant.agreement import Agreement
from cg.quant.distortion import Distortion
from cg.quant.plots import COLOURS, Bar, bars
from cg.quant.report import TensorReport
from cg.quant.report_page import Block, Page
from cg.quant.report_plots import layer_plot, layer_table, percentile_plot
from cg.quant.verification import Thresholds, Verification
from cg.runtime.formats.summary import brief

__all__ = ["verification_page"]

_NUMBER = re.compile(r"\.\d+\.")


def verification_page(result: Verification, thresholds: Thresholds) -> Page:
    """Everything that ``--json`` holds, for reading."""
    run = result.run
    lead = [verify_text.conclusion(result.figures)]
    if run.agreement is not None:
        lead.append(verify_text.agreement_line(run.agreement))
    return Page(
        title=f"{result.quantized.name} beside {result.original.name}",
        lead=(*lead, *verify_text.where_lines(result)),
        blocks=tuple(_blocks(result)),
        foot=(
            f"cg {__version__}; {verify_text.circumstances(result)}.",
            *(f"{s.title}: {s.text}, SHA-256 {s.text_sha256}" for s in result.sections if s.task == "text"),
            f"Quantized: {result.quantized}; original: {result.original}.",
            *([f"Provenance: {_pairs(result.provenance)}."] if result.provenance else []),
            *(f"Note: {note}." for note in result.notes),
        ),
        verdict=_verdict(result, thresholds),
    )


def _blocks(result: Verification) -> Iterator[Block]:
    run, sections = result.run, result.sections
    named = verify_text.columns(result)
    titles, figures = zip(*named, strict=True)
    yield Block(
        "Figures",
        "Each with its standard error. Defined as in llama-perplexity; Δp is the change of the probability "
        "of the token that came.",
        heads=("", *titles),
        rows=_rows(verify_text.figure_rows(figures)),
    )
    yield Block(
        "Percentiles of the divergence",
        "How many tokens are hardly touched, and how far the worst ones move.",
        percentile_plot(named if len(named) <= COLOURS else [n for n in named if n[0].startswith("all ")]),
        ("", *titles),
        _rows(verify_text.percentile_rows(figures)),
        folded=True,
    )
    if result.parts:
        yield Block(
            "Weights and activations",
            "What the coarser weights cost with float32 activations, and what rounding activations to 8 bits "
            "adds.",
            heads=verify_text.PARTS_HEADS,
            rows=_rows(verify_text.parts_rows(sections, result.parts)),
        )
    runs = [(f"{run.computed.activations} activations", run.layers) for run in result.runs]
    yield Block(
        "Hidden states, layer by layer",
        "Difference from the original's hidden state, relative to its size, mean over the scored tokens; "
        "0 is the embedding.",
        layer_plot(runs),
        ("", *(name for name, _ in runs)),
        layer_table([layers for _, layers in runs]),
        folded=True,
    )
    yield Block(
        "Tensors",
        "Relative error of the quantized tensors; bars are over all layers, thin lines from the best to the "
        "worst.",
        _tensor_plot(result.tensors),
        ("tensor", "from", "to", "size", "relative error", "SNR dB"),
        tuple(_tensor_row(tensor) for tensor in result.tensors),
        folded=True,
    )
    yield Block(
        "Size", plot=_size_plot(result), heads=("", "files", "bits per weight"), rows=_size_rows(result)
    )
    if run.agreement is not None:
        yield _completions(run.agreement)


def _tensor_plot(tensors: Sequence[TensorReport]) -> str:
    """One bar for the same tensor of all layers."""
    groups: dict[str, list[Distortion]] = {}
    for tensor in tensors:
        if tensor.distortion is not None and tensor.distortion.relative_error is not None:
            groups.setdefault(_NUMBER.sub(".*.", tensor.name), []).append(tensor.distortion)
    rows = []
    for name, group in groups.items():
        errors = [d.relative_error or 0.0 for d in group]
        whole = sum(group, Distortion()).relative_error or 0.0
        short = name.removeprefix("model.").removeprefix("layers.*.").removesuffix(".weight")
        rows.append(Bar(short, whole, min(errors), max(errors), f"{whole:.4f}"))
    return bars(rows) if rows else ""


def _tensor_row(tensor: TensorReport) -> tuple[str, ...]:
    error = snr = "-"
    if tensor.distortion is not None:
        relative, decibels = tensor.distortion.relative_error, tensor.distortion.snr_db
        error = "?" if relative is None else f"{relative:.4f}"
        snr = "-" if decibels is None else f"{decibels:.1f}"
    return tensor.name, tensor.source_dtype, tensor.dtype, verify_text.size(tensor.bytes), error, snr


def _size_plot(result: Verification) -> str:
    sizes = (("original", result.original_bytes), ("quantized", result.quantized_bytes))
    return bars([Bar(name, float(n), n, n, verify_text.size(n)) for name, n in sizes], 90)


def _size_rows(result: Verification) -> tuple[tuple[str, ...], ...]:
    totals, size = result.totals, verify_text.size
    return (
        ("original", size(result.original_bytes), f"{totals.source_bits_per_weight:.2f}"),
        ("quantized", size(result.quantized_bytes), f"{totals.bits_per_weight:.2f}"),
    )


def _completions(agreement: Agreement) -> Block:
    rows = [
        (str(n), c.before.lstrip(), c.original, c.quantized, "yes" if c.equal else "no", c.middle)
        for n, c in enumerate(agreement.completions, 1)
    ]
    heads = ("", "before the hole", "original writes", "quantized writes", "same", "stood there")
    text = f"{verify_text.agreement_line(agreement)} Greedy decoding."
    return Block("Completions", text, "", heads, tuple(rows), frozenset({1, 2, 3, 5}))


def _verdict(result: Verification, thresholds: Thresholds) -> str | None:
    if thresholds == Thresholds():
        return None
    return "; ".join(thresholds.misses(result.run, result.sections)) or "passed"


def _rows(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(map(tuple, rows))


def _pairs(provenance: dict[str, str]) -> str:
    return ", ".join(f"{key} {brief(value)}" for key, value in provenance.items())
