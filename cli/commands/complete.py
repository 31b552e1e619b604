"""``cg complete``: fill in the middle, or continue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cg.cli import cursor, options, output, start
from cg.cli.completion_text import as_json, timings_line
from cg.cli.loading import load_model
from cg.runtime.errors import UsageError

if TYPE_CHECKING:
    from cg.runtime import Completion

__all__ = ["complete"]


def complete(
    model: options.ModelOption = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Text before the cursor, or @FILE.")] = None,
    suffix: Annotated[str | None, typer.Option("--suffix", help="Text after the cursor, or @FILE.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A file with the cursor at --line, --column.")
    ] = None,
    line: Annotated[int | None, typer.Option("--line", help="Line of the cursor, from 1.")] = None,
    column: Annotated[int | None, typer.Option("--column", help="Column of the cursor, from 1.")] = None,
    path: Annotated[
        str | None, typer.Option("--path", help="Name of the edited file, told to the model.")
    ] = None,
    context: Annotated[
        list[Path] | None, typer.Option("--context", help="A related file; repeatable, most related last.")
    ] = None,
    mode: Annotated[
        Literal["psm", "spm", "spm-prefix-first"],
        typer.Option("--mode", help="Order of the parts in the prompt."),
    ] = "psm",
    max_tokens: options.MaxTokensOption = 128,
    alternatives: Annotated[int, typer.Option("-n", min=1, max=64, help="How many completions.")] = 1,
    temperature: options.TemperatureOption = 0.0,
    top_k: options.TopKOption = 0,
    top_p: options.TopPOption = 1.0,
    min_p: options.MinPOption = 0.0,
    repetition_penalty: options.PenaltyOption = 1.0,
    seed: options.SeedOption = None,
    stop: options.StopOption = None,
    context_length: options.ContextLengthOption = None,
    backend: options.BackendOption = "auto",
    threads: options.ThreadsOption = None,
    activations: options.ActivationsOption = None,
    preload: options.PreloadOption = False,
    json: options.JsonOption = False,
) -> None:
    """Complete code at the cursor.

    With a suffix, a file position or a <CURSOR> marker on standard input the model fills in the middle;
    with a prefix alone it continues. Only the completion goes to standard output.

    \b
    Examples:
      cg complete -m demo --prefix 'def add(a, b):' --suffix $'\\n\\nprint(add(1, 2))'
      cg complete -m codegemma-2b-q4 --file app.py --line 12 --column 9 --context util.py
      cg complete -m codegemma-2b-q4 --path app.py --preload < buffer-with-cursor.py
      cg complete -m codegemma-2b-q4 --prefix @start.py -n 3 --temperature 0.8 --seed 1 --json
    """
    if alternatives > 1 and temperature == 0:
        raise UsageError(
            f"greedy decoding gives the same text {alternatives} times", hint="add --temperature 0.8"
        )
    place = cursor.locate(prefix, suffix, file, line, column)
    folder = options.model_folder(model)
    start.import_numpy(backend)
    options.tell_fallback(backend)

    from cg.runtime import ContextFile, SamplingOptions

    files = [ContextFile(f.as_posix(), cursor.read_source(f)) for f in context or []]
    sampling = [
        SamplingOptions(
            temperature, top_k, top_p, min_p, repetition_penalty, None if seed is None else seed + i
        )
        for i in range(alternatives)
    ]
    with load_model(
        folder,
        backend=backend,
        threads=threads,
        activations=activations,
        context_length=context_length,
        preload=preload,
    ) as engine:
        if engine.tokenizer.note is not None:
            output.detail(engine.tokenizer.note)
        results: list[Completion] = []
        for choice in sampling:
            stream = engine.stream(
                place.prefix,
                place.suffix,
                path=path or place.path,
                context=files,
                mode=mode,
                max_tokens=max_tokens,
                sampling=choice,
                stop=stop or (),
            )
            if not results:
                for message in stream.notes:
                    output.note(f"note: {message}")
            for piece in stream:
                if not json:
                    output.emit(piece, end="")
            results.append(stream.result)
            if not json and (alternatives > 1 or sys.stdout.isatty()):
                output.emit("")
            output.detail(timings_line(results[-1]))
    if json:
        output.emit_json({"model": str(folder), "completions": [as_json(r) for r in results]})
