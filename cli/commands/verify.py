"""``cg verify``: what quantizing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cg.cli import output
from cg.cli.options import ActivationsOption, BackendOption, JsonOption, ThreadsOption, model_folder

if TYPE_CHECKING:
    from rich.progress import Progress

    from cg.quant.statistics import Estimate, Figures
    from cg.quant.verify import Thresholds, Verification

__all__ = ["verify"]


def verify(
    quantized: Annotated[str, typer.Argument(help="The quantized model: folder, alias, Hub id or local name.")],
    against: Annotated[str, typer.Option("--against", "-a", help="The original that it was made from.")],
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="A UTF-8 file to evaluate on; repeatable. Default: bundled Python."),
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", "-c", help="Tokens per chunk; default: 512, or what the model takes.")
    ] = None,
    chunks: Annotated[
        int, typer.Option("--chunks", min=0, help="Evaluate at most this many chunks; 0 is the whole text.")
    ] = 16,
    max_ppl_ratio: Annotated[
        float | None, typer.Option("--max-ppl-ratio", help="Fail (exit code 1) above this perplexity ratio.")
    ] = None,
    max_kld: Annotated[
        float | None, typer.Option("--max-kld", help="Fail (exit code 1) above this mean KL divergence.")
    ] = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    activations: ActivationsOption = None,
    json: JsonOption = False,
) -> None:
    """Measure what quantizing lost, in perplexity and divergence from the original.

    Both models read the same text; figures are defined as in llama-perplexity, each with its standard
    error. The original always runs with float32 activations, the quantized model as in cg complete.

    \b
    Examples:
      cg verify codegemma-2b-q4 --against codegemma-2b
      cg verify codegemma-2b-q4 --against codegemma-2b --max-ppl-ratio 1.05 --max-kld 0.1
      cg verify demo-q4 --against demo --text app.py --text test_app.py --chunks 0 --json
    """
    folder, original = model_folder(quantized), model_folder(against)

    from cg.quant.evaluation_text import read_text
    from cg.quant.verify import Thresholds, VerifyOptions
    from cg.quant.verify import verify as compare

    thresholds = Thresholds(max_ppl_ratio, max_kld)
    options = VerifyOptions(context, chunks or None, backend, threads, activations)
    evaluation_text = read_text(text or ())
    with output.progress() as bars:
        result = compare(folder, original, evaluation_text, options, _bar(bars))
    if json:
        output.emit_json(_as_json(result, thresholds))
    else:
        output.table("", ("", "value", "± standard error"), _rows(result.figures))
        output.emit(_conclusion(result.figures))
    output.note(
        f"{result.figures.tokens:,} tokens scored in {result.chunks} chunks of {result.context} ({result.text}); "
        f"{result.backend} on {result.isa}, {result.activations} activations, {result.seconds:.1f} s"
    )
    thresholds.require(result.figures)


def _bar(bars: Progress) -> Callable[[str, int, int], None]:
    task = bars.add_task("reading", total=None, speed="")

    def show(stage: str, done: int, total: int) -> None:
        bars.update(task, description=stage, completed=done, total=total)

    return show


def _rows(figures: Figures) -> list[tuple[str, str, str]]:
    def row(name: str, estimate: Estimate, digits: int, factor: float = 1, unit: str = "") -> tuple[str, str, str]:
        numbers = (f"{factor * x:.{digits}f}{unit}" for x in (estimate.value, estimate.error))
        return (name, *numbers)

    return [
        row("perplexity, original", figures.ppl_original, 4),
        row("perplexity, quantized", figures.ppl_quantized, 4),
        row("perplexity ratio", figures.ppl_ratio, 5),
        row("ln of the ratio", figures.ln_ppl_ratio, 5),
        row("mean KL divergence (nats)", figures.mean_kld, 5),
        row("same likeliest token", figures.same_top, 2, 100, " %"),
    ]


def _conclusion(figures: Figures) -> str:
    """The figures in one plain sentence."""
    ratio = figures.ppl_ratio
    if figures.mean_kld.value == 0:
        return "The two models give the same probabilities."
    change = f"{100 * abs(ratio.value - 1):.2f} % ± {100 * ratio.error:.2f} %"
    if abs(figures.ln_ppl_ratio.value) < 2 * figures.ln_ppl_ratio.error:
        about = f"no worse or better than chance explains on this text (a difference of {change})"
    else:
        about = f"{change} {'higher' if ratio.value > 1 else 'lower'} than the original's"
    share = f"{100 * figures.same_top.value:.1f} %"
    return f"The quantized model's perplexity is {about}; in {share} of the cases both would write the same token."


def _as_json(result: Verification, thresholds: Thresholds) -> dict[str, Any]:
    from dataclasses import asdict

    misses = thresholds.misses(result.figures)
    return {
        **asdict(result),
        "quantized": str(result.quantized),
        "original": str(result.original),
        "thresholds": asdict(thresholds),
        "passed": not misses,
        "misses": misses,
    }
