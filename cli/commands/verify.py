"""``cg verify``: what quantizing lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cg.cli import output, verify_options
from cg.cli.options import BackendOption, JsonOption, ThreadsOption, model_folder, tell_fallback
from cg.runtime.errors import UsageError

if TYPE_CHECKING:
    from cg.quant.verify import Verification

__all__ = ["verify"]

_COLUMNS = 3  # of figures side by side, so that a table fits a terminal


def verify(
    quantized: Annotated[
        str, typer.Argument(metavar="QUANTIZED", help="Folder, alias, Hub id or local name; see cg models.")
    ],
    against: verify_options.AgainstOption,
    text: verify_options.TextOption = None,
    language: verify_options.LanguageOption = None,
    context: verify_options.ContextOption = None,
    chunks: verify_options.ChunksOption = 16,
    holes: verify_options.HolesOption = None,
    max_ppl_ratio: Annotated[
        float | None, typer.Option("--max-ppl-ratio", help="Fail (exit code 1) above this perplexity ratio.")
    ] = None,
    max_kld: Annotated[
        float | None, typer.Option("--max-kld", help="Fail (exit code 1) above this mean KL divergence.")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option("--min-agreement", help="Fail below this share of holes filled alike, 0 to 1."),
    ] = None,
    backend: BackendOption = "auto",
    reference_backend: verify_options.ReferenceOption = None,
    threads: ThreadsOption = None,
    activations: Annotated[
        Literal["int8", "f32", "both"] | None,
        typer.Option("--activations", help="Of the quantized model; default: as in cg complete."),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also list percentiles, layers and tensors.")
    ] = False,
    report: verify_options.ReportOption = None,
    json: JsonOption = False,
) -> None:
    """Measure what quantizing lost, in perplexity and divergence from the original.

    Both models read the same text and fill the same holes; figures are defined as in llama-perplexity,
    each with its standard error. The original always runs with float32 activations, the quantized model as
    in cg complete.

    \b
    Examples:
      cg verify codegemma-2b-q4 --against codegemma-2b
      cg verify codegemma-2b-q4 --against codegemma-2b --max-ppl-ratio 1.05 --max-kld 0.1
      cg verify codegemma-2b-q4 --against codegemma-2b --activations both --report loss.html
      cg verify demo-q4 --against demo --text app.py --text test_app.py --chunks 0 --json
    """
    folder, original = model_folder(quantized), model_folder(against)
    tell_fallback(backend)

    from cg.quant import verify_text
    from cg.quant.report_page import check_report_paths, write_page
    from cg.quant.verify import Thresholds, VerifyOptions
    from cg.quant.verify import verify as compare
    from cg.quant.verify_report import verification_page

    thresholds = Thresholds(max_ppl_ratio, max_kld, min_agreement)
    if min_agreement is not None and holes == 0:
        raise UsageError("agreement was not measured", hint="leave out --holes 0")
    check_report_paths(report or ())
    options = VerifyOptions(context, chunks or None, backend, threads, activations, reference_backend, holes)
    texts = verify_options.read_texts(text, language)
    with output.progress() as bars:
        result = compare(folder, original, texts, options, verify_options.show_progress(bars))
    for note in result.notes:
        output.note(f"note: {note}")
    if json:
        output.emit_json(result.to_json(thresholds))
    else:
        _print(result, details=details)
    output.note(verify_text.circumstances(result))
    for path in report or ():
        write_page(verification_page(result, thresholds), path)
        output.note(f"wrote {path}")
    thresholds.require(result.run, result.sections)


def _print(result: Verification, *, details: bool) -> None:
    from cg.quant import verify_text as text

    run = result.run
    named = text.columns(result)
    for start in range(0, len(named), _COLUMNS):
        heads, figures = zip(*named[start : start + _COLUMNS], strict=True)
        rows = text.figure_rows(figures) + (text.percentile_rows(figures) if details else [])
        output.table("", ["", *heads], rows)
    if result.parts:
        output.table("", text.PARTS_HEADS, text.parts_rows(result.sections, result.parts))
    if details:
        from cg.cli.quantize_report import tensor_rows

        output.table("", ["hidden states", "difference"], text.layer_rows(run.layers))
        columns = ["tensor", "count", "from", "to", "size", "relative error", "SNR dB"]
        output.table("", columns, tensor_rows(result.tensors))
    output.emit(text.conclusion(result.figures))
    if run.agreement is not None:
        output.emit(text.agreement_line(run.agreement))
    for line in text.where_lines(result):
        output.emit(line)
