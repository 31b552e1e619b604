"""``cg bench``: speed and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cg.cli import output
from cg.cli.options import ActivationsOption, BackendOption, JsonOption, ThreadsOption, model_folder
from cg.runtime.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["bench"]


def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", envvar="CG_MODEL", help="Folder, alias, Hub id or local name; see cg models."
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--n-prompt", "-p", help="Prompt sizes, e.g. 128,512; 0 for none. Default: 512."),
    ] = None,
    generate: Annotated[
        list[str] | None,
        typer.Option("--n-gen", "-n", help="Tokens to generate, e.g. 32,128; 0 for none. Default: 128."),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Runs per size, after one to warm up.")
    ] = 5,
    form: Annotated[
        Literal["table", "md", "csv", "json"], typer.Option("--output", "-o", help="Form of the report.")
    ] = "table",
    json: JsonOption = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random tokens.")] = 0,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    activations: ActivationsOption = None,
) -> None:
    """Measure prompt and generation speed, time to first token and memory.

    In llama-bench's terms: ppN reads a prompt of N random tokens, tgN generates N tokens one by one; mean
    and standard deviation of the repetitions, without tokenizing and sampling.

    \b
    Examples:
      cg bench codegemma-2b-q4
      cg bench codegemma-2b-q4 -p 128,512,2048 -n 0 -r 3 -o md
      cg bench demo -p 64 -n 16 --json
    """
    if json and form not in ("table", "json"):
        raise UsageError(f"--json and --output {form} exclude each other")
    folder = model_folder(model)

    from cg.cli import bench_text
    from cg.runtime.bench import BenchOptions, bench_model

    options = BenchOptions(_sizes(prompt, "512", "-p"), _sizes(generate, "128", "-n"), repetitions, seed)
    with output.progress() as bars:
        report = bench_model(
            folder,
            options,
            backend=backend,
            threads=threads,
            activations=activations,
            progress=_bar(bars),
        )
    if json or form == "json":
        output.emit_json(bench_text.as_json(report))
    elif form == "csv":
        output.emit(bench_text.as_csv(report))
    elif form == "md":
        output.emit(bench_text.as_markdown(report))
    else:
        output.table("", bench_text.COLUMNS, bench_text.rows(report))
        output.emit(bench_text.footer(report))


def _sizes(values: Sequence[str] | None, default: str, option: str) -> tuple[int, ...]:
    """``["128,512", "32"]`` as sizes; zeros, which switch a kind of test off, left out."""
    listed = ",".join(values or [default])
    try:
        sizes = [int(size) for size in listed.split(",")]
    except ValueError:
        raise UsageError(f"{option} {listed}: expected sizes in tokens, separated by commas") from None
    return tuple(size for size in sizes if size)


def _bar(bars: Progress) -> Callable[[str, int, int], None]:
    task = bars.add_task("warm-up", total=None, speed="")

    def show(test: str, done: int, total: int) -> None:
        bars.update(task, description=test, completed=done, total=total)

    return show
