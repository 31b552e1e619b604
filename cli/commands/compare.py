"""``cg compare``: several models made from one original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cg.cli import output, verify_options
from cg.cli.options import (
    ActivationsOption,
    BackendOption,
    JsonOption,
    ThreadsOption,
    model_folder,
    tell_fallback,
)

__all__ = ["compare"]


def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Folders, aliases, Hub ids or local names.")
    ],
    against: verify_options.AgainstOption,
    text: verify_options.TextOption = None,
    language: verify_options.LanguageOption = None,
    context: verify_options.ContextOption = None,
    chunks: verify_options.ChunksOption = 16,
    holes: verify_options.HolesOption = None,
    backend: BackendOption = "auto",
    reference_backend: verify_options.ReferenceOption = None,
    threads: ThreadsOption = None,
    activations: ActivationsOption = None,
    report: Annotated[
        list[Path] | None,
        typer.Option("--report", help="Also write a report, NAME.md or NAME.html, or the plot, NAME.svg."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare several quantized models with the original that they were made from, in one run.

    The original is computed once. A model is any folder of the original's shapes, also one of floats that
    another program wrote. Figures are those of cg verify, over all texts.

    \b
    Examples:
      cg compare codegemma-2b-q4 codegemma-2b-i8 --against codegemma-2b
      cg compare ./a ./b ./c --against codegemma-2b --report sizes.html --report sizes.svg
      cg compare demo-q4 demo-i8 --against demo --holes 0 --json
    """
    folders, original = [model_folder(model) for model in models], model_folder(against)
    tell_fallback(backend)

    from cg.quant import compare_report
    from cg.quant.compare import compare as run
    from cg.quant.report_page import check_report_paths
    from cg.quant.verify import VerifyOptions

    check_report_paths(report or (), compare_report.SUFFIXES)
    options = VerifyOptions(context, chunks or None, backend, threads, activations, reference_backend, holes)
    texts = verify_options.read_texts(text, language)
    with output.progress() as bars:
        result = run(folders, original, texts, options, verify_options.show_progress(bars))
    for note in result.notes:
        output.note(f"note: {note}")
    if json:
        output.emit_json(result.to_json())
    else:
        output.table("", compare_report.heads(result), compare_report.rows(result))
    output.note(compare_report.circumstances(result))
    for path in report or ():
        compare_report.write_comparison(result, path)
        output.note(f"wrote {path}")
