"""``cg quantize``: a checkpoint to Jlama's blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from cg.cli import output
from cg.cli.options import JsonOption, OverwriteOption, ThreadsOption, tell_fallback
from cg.cli.output import format_size
from cg.runtime.hub import registry

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cg.quant import QuantizeProgress, QuantizeResult
    from cg.quant.plan import BlockType, Method

__all__ = ["quantize"]

_MB = 1_000_000


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, an alias (codegemma-2b ...) or a Hub id.")
    ],
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", help="Output folder; default: NAME-q4 among the models of cg models."),
    ] = None,
    kind: Annotated[
        Literal["q4", "i8"], typer.Option("--type", help="q4: 5 bits per weight; i8: 9 bits.")
    ] = "q4",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Keep tensors with this in their name; repeatable; default: norm."),
    ] = None,
    jlama_runnable: Annotated[
        bool, typer.Option("--jlama-runnable", help="Keep norms and embedding, so that Jlama can run it too.")
    ] = False,
    method: Annotated[
        Literal["gptq", "search", "absmax", "jlama"] | None,
        typer.Option(
            "--method",
            help="How to round: gptq loses least, absmax (or jlama) is Jlama's own, to the bit, in seconds. "
            "Default: gptq for q4, absmax for i8.",
        ),
    ] = None,
    scales: Annotated[
        Literal["f32", "f16"] | None,
        typer.Option(
            "--scales",
            help="f16: only scales that f16 holds, as cg optimize and GGUF want; default but absmax.",
        ),
    ] = None,
    embed: Annotated[
        Literal["q4", "i8", "keep"] | None,
        typer.Option("--embed", help="The embedding, which is also the head; default: as --type."),
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option(
            "--bits",
            help="At most so many bits per quantized weight, between 5 and 9: i8 for the matrices that lose "
            "most by q4, as measured, and q4 for the others.",
        ),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option("--calibrate", help="A UTF-8 file to calibrate on; repeatable. Default: bundled code."),
    ] = None,
    calibration_tokens: Annotated[
        int, typer.Option("--calibration-tokens", min=0, help="At most so many; 0: none, for search.")
    ] = 16384,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Encode NaN and infinity as Jlama does.")
    ] = False,
    overwrite: OverwriteOption = False,
    threads: ThreadsOption = None,
    all_tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, not groups.")] = False,
    json: JsonOption = False,
) -> None:
    """Quantize a checkpoint to Jlama's 4-bit (or 8-bit) block format.

    The output folder appears complete or not at all. It holds model.safetensors, config.json, the
    tokenizer and a model card. Whatever the method, Jlama can read the result.

    gptq and search are calibrated: they measure what every matrix reads on some code, layer by layer, and
    round so that the outputs change least. gptq takes an hour or two for 2b; killed or interrupted, the same
    command goes on where it stopped. absmax takes seconds.

    \b
    Examples:
      cg quantize codegemma-2b
      cg quantize codegemma-2b ./codegemma-2b-JQ4 --jlama-runnable
      cg quantize ~/models/my-gemma ./my-gemma-i8 --type i8 --overwrite
      cg quantize codegemma-2b ./fast --method absmax
      cg quantize codegemma-2b ./better --bits 5.5
      cg quantize codegemma-2b ./mine --calibrate app.py --calibrate util.py --scales f16
      cg quantize demo ./demo-q4 --keep norm --keep embed --json
    """
    from cg.quant import QuantizeOptions
    from cg.quant import quantize as run
    from cg.quant.layer_files import kept_work
    from cg.quant.plan import DEFAULT_KEEP
    from cg.quant.provenance import identify

    folder = registry.resolve(source)
    suffix = f"-{kind}-jlama" if jlama_runnable else f"-{kind}"
    target = out or registry.models_folder() / f"{identify(folder).name}{suffix}"
    chosen = _method(method, kind, allow_nonfinite)
    options = QuantizeOptions(
        kind, tuple(keep) if keep else DEFAULT_KEEP, jlama_runnable, allow_nonfinite, overwrite, threads,
        chosen, scales or ("f32" if chosen == "absmax" else "f16"), embed, tuple(calibrate or ()),
        calibration_tokens, bits,
    )  # fmt: skip
    tell_fallback("native")  # whose encoder it is
    try:
        with output.progress() as bars:
            result = run(folder, target, options, _bar(bars))
    except BaseException:  # Ctrl-C, too
        for work in kept_work(target):
            output.note(f"what is done is kept in {work}; the same command goes on there")
        raise
    for message in result.notes:
        output.note(f"note: {message}")
    if json:
        output.emit_json(result.to_json())
        return
    _print(result, all_tensors=all_tensors)
    output.note(f"next: cg complete -m {target.name if out is None else result.folder}")


def _method(asked: str | None, kind: BlockType, allow_nonfinite: bool) -> Method:
    """What was asked for, or the best that is worth its time: 8 bits lose next to nothing by any method."""
    if asked is None:
        return "absmax" if kind == "i8" or allow_nonfinite else "gptq"
    return "absmax" if asked == "jlama" else cast("Method", asked)


def _bar(bars: Progress) -> Callable[[QuantizeProgress], None]:
    """A bar of its own for rounding, which may take long, and one in megabytes of the source for writing."""
    tasks: dict[str, TaskID] = {}

    def show(state: QuantizeProgress) -> None:
        task = tasks.get(state.stage)
        if task is None:
            task = tasks[state.stage] = bars.add_task(state.stage, total=None, speed="")
        writing = state.stage == "writing"
        unit = _MB if writing else state.total / 100
        speed = bars.tasks[bars.task_ids.index(task)].speed if writing else None
        bars.update(
            task,
            description=f"{state.what} (MB)" if writing else state.what or state.stage,
            completed=state.done // unit,
            total=state.total // unit,
            speed=f"{speed:.0f} MB/s" if speed else "",
        )

    return show


def _print(result: QuantizeResult, *, all_tensors: bool) -> None:
    from cg.cli.quantize_report import grouped, tensor_rows

    t = result.totals
    rows = tensor_rows(result.tensors) if all_tensors else grouped(result.tensors)
    output.table("", ["tensor", "count", "from", "to", "size", "relative error", "SNR dB"], rows)
    error = "" if t.relative_error is None else f", relative error {t.relative_error:.4f}"
    output.emit(
        f"{t.parameters:,} parameters: {format_size(t.source_bytes)} at {t.source_bits_per_weight:.2f} "
        f"bits per weight -> {format_size(t.bytes)} at {t.bits_per_weight:.2f}{error}"
    )
    output.emit(
        f"{result.folder}  ({result.seconds:.1f} s, {result.encoder} encoder, {result.threads} threads)"
    )
