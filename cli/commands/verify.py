"""``cg verify``: what quantizing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cg.cli import output, verify_text
from cg.cli.options import (
    ActivationsOption,
    BackendOption,
    JsonOption,
    ThreadsOption,
    model_folder,
    tell_fallback,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from cg.quant.verify import Thresholds, Verification

__all__ = ["verify"]


def verify(
    quantized: Annotated[
        str, typer.Argument(metavar="QUANTIZED", help="Folder, alias, Hub id or local name; see cg models.")
    ],
    against: Annotated[str, typer.Option("--against", "-a", help="The original that it was made from.")],
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="A UTF-8 file to evaluate on; repeatable. Default: bundled Python."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens per chunk; default: 512, or the model's context."),
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
    tell_fallback(backend)

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
        output.table("", ("", "value", "± standard error"), verify_text.rows(result.figures))
        output.emit(verify_text.conclusion(result.figures))
    output.note(verify_text.circumstances(result))
    thresholds.require(result.figures)


def _bar(bars: Progress) -> Callable[[str, int, int], None]:
    task = bars.add_task("reading", total=None, speed="")

    def show(stage: str, done: int, total: int) -> None:
        bars.update(task, description=stage, completed=done, total=total)

    return show


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
