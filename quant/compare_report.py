"""The table, the plot and the report of ``cg compare``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from cg import __version__
from cg.quant import verify_text
from cg.quant.compare import ComparedModel, Comparison
from cg.quant.plots import STYLE, Point, linear_axis, log_axis, points
from cg.quant.report_page import Block, Page, write_page, write_text
from cg.quant.report_plots import LEAST_KLD, layer_plot, layer_table, percentile_plot

__all__ = ["SUFFIXES", "circumstances", "comparison_page", "heads", "rows", "size_plot", "write_comparison"]

_LINEAR_RANGE = 5

SUFFIXES = (".md", ".html", ".svg")
"""Kinds of reports."""


def heads(result: Comparison) -> tuple[str, ...]:
    """Of :func:`rows`."""
    middles = ("middles KLD", "same text") if _has_holes(result) else ()
    return ("model", "size", "bits", "PPL ratio", "mean KLD", "99 % KLD", "same top", *middles)


def rows(result: Comparison) -> list[tuple[str, ...]]:
    """A row per model: what it weighs and what it lost, over all texts."""
    return [_row(model) for model in result.models]


def size_plot(result: Comparison) -> str:
    """Size against mean divergence, with twice the standard error up and down.

    The divergence is on a logarithmic scale if it differs by more than a factor of five.
    """
    sizes = [model.file_bytes / 1e6 for model in result.models]
    klds = [model.run.overall.mean_kld for model in result.models]
    values, label = [kld.value for kld in klds], "mean KL divergence, nats"
    logarithmic = max(values) > _LINEAR_RANGE * min(values)
    tops = [kld.value + 2 * kld.error for kld in klds]
    y = log_axis(label, values, LEAST_KLD) if logarithmic else linear_axis(label, tops)

    def place(kld: float) -> float:
        return math.log10(max(kld, LEAST_KLD)) if logarithmic else kld

    marks = [
        Point(model.name, size, *map(place, (kld.value, kld.value - 2 * kld.error, top)))
        for model, size, kld, top in zip(result.models, sizes, klds, tops, strict=True)
    ]
    return points(marks, linear_axis("size, MB", sizes), y)


def comparison_page(result: Comparison) -> Page:
    """Everything about the models, side by side."""
    best = min(result.models, key=lambda model: model.run.overall.mean_kld.value)
    smallest = min(result.models, key=lambda model: model.file_bytes)
    size = verify_text.size
    return Page(
        title=f"{len(result.models)} models beside {result.original.name}",
        lead=(
            f"{best.name} is nearest to the original, {smallest.name} is the smallest "
            f"({size(smallest.file_bytes)}; the original has {size(result.original_bytes)}).",
        ),
        blocks=tuple(_blocks(result)),
        foot=(
            f"cg {__version__}; {circumstances(result)}.",
            *(f"{s.title}: {s.text}, SHA-256 {s.text_sha256}" for s in result.sections if s.task == "text"),
            f"Original: {result.original}; "
            + ", ".join(f"{m.name}: {m.folder}" for m in result.models)
            + ".",
            *(f"Note: {note}." for note in result.notes),
        ),
    )


def circumstances(result: Comparison) -> str:
    """On what the figures were measured."""
    run = result.models[0].run
    names = ", ".join(dict.fromkeys(s.text for s in result.sections))
    return (
        f"{run.overall.tokens:,} tokens scored, from {names}; {run.computed.isa}, "
        f"threads: {run.computed.threads}, {run.computed.activations} activations, {result.seconds:.1f} s"
    )


def write_comparison(result: Comparison, path: Path) -> None:
    """A page, or the plot alone, as the file's name asks for.

    Raises:
        OutputError: it cannot be written.
    """
    if path.suffix.lower() != ".svg":
        write_page(comparison_page(result), path)
        return
    background = f'<style>{STYLE}</style><rect width="100%" height="100%" style="fill: var(--page)"/>'
    write_text(path, size_plot(result).replace(">", f">{background}", 1) + "\n")


def _blocks(result: Comparison) -> Iterator[Block]:
    names = tuple(model.name for model in result.models)
    figures = [model.run.overall for model in result.models]
    yield Block(
        "Size and loss",
        "Mean divergence over all texts, with two standard errors up and down: further down is nearer to the "
        "original, further left is smaller.",
        size_plot(result),
        heads(result),
        tuple(rows(result)),
    )
    yield Block(
        "Figures",
        "Over all texts, each with its standard error.",
        heads=("", *names),
        rows=tuple(map(tuple, verify_text.figure_rows(figures))),
    )
    yield Block(
        "Percentiles of the divergence",
        "How many tokens are hardly touched, and how far the worst ones move.",
        percentile_plot(list(zip(names, figures, strict=True))),
        ("", *names),
        tuple(map(tuple, verify_text.percentile_rows(figures))),
        folded=True,
    )
    layers = [model.run.layers for model in result.models]
    yield Block(
        "Hidden states, layer by layer",
        "Difference from the original's hidden state, relative to its size, mean over the scored tokens.",
        layer_plot(list(zip(names, layers, strict=True))),
        ("", *names),
        layer_table(layers),
        folded=True,
    )


def _row(model: ComparedModel) -> tuple[str, ...]:
    show, figures, middles = verify_text.show, model.run.overall, model.run.middles
    row = (
        model.name,
        verify_text.size(model.file_bytes),
        f"{model.totals.bits_per_weight:.2f}",
        show(figures.ppl_ratio, 4),
        show(figures.mean_kld, 5),
        f"{figures.kld.p99:.4f}",
        f"{100 * figures.same_top.value:.1f} %",
    )
    if middles is None or model.run.agreement is None:
        return row
    return (*row, f"{middles.mean_kld.value:.5f}", f"{100 * model.run.agreement.equal.value:.0f} %")


def _has_holes(result: Comparison) -> bool:
    return any(section.task == "middles" for section in result.sections)
