"""``cg bench``: speed and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cg.cli import output
from cg.cli.bench_options import (
    BatchOption,
    DepthOption,
    GenerateOption,
    PromptOption,
    SweepOption,
    numbers,
    sizes,
)
from cg.cli.loading import preload_bar
from cg.cli.options import (
    ActivationsOption,
    BackendOption,
    JsonOption,
    PreloadOption,
    model_folder,
    tell_fallback,
)
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
    prompt: PromptOption = None,
    generate: GenerateOption = None,
    batch: BatchOption = None,
    depth: DepthOption = None,
    threads: SweepOption = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Runs per test, after one to warm up.")
    ] = 5,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Measure read bandwidth, and the share of it that tg reaches.")
    ] = False,
    form: Annotated[
        Literal["table", "md", "csv", "json", "jsonl"],
        typer.Option("--output", "-o", help="Form of the report."),
    ] = "table",
    json: JsonOption = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random tokens.")] = 0,
    backend: BackendOption = "auto",
    activations: ActivationsOption = None,
    preload: PreloadOption = False,
) -> None:
    """Measure prompt and generation speed, time to first token and memory.

    In llama-bench's terms: ppN reads a prompt of N random tokens, tgN generates N tokens one by one, @dD with
    D tokens in the cache already; batchN is one pass over N tokens, as checking guessed tokens makes it. Mean
    and standard deviation of the repetitions, without tokenizing and sampling. Tables end with a line of JSON
    that has everything in it.

    \b
    Examples:
      cg bench codegemma-2b-q4
      cg bench codegemma-2b-q4 -p 128,512,2048 -n 0 -r 3 -o md
      cg bench codegemma-2b-q4 -d 0,4096 -t 1,2 --roofline
      cg bench codegemma-2b-q4 -p 0 -n 0 -b 2,4,8 --preload
      cg bench demo -p 64 -n 16 | tail -n 1
    """
    if json and form not in ("table", "json"):
        raise UsageError(f"--json and --output {form} exclude each other")
    folder = model_folder(model)
    tell_fallback(backend)

    from cg.cli import bench_text
    from cg.runtime.bench import bench_model
    from cg.runtime.bench_tests import BenchOptions

    options = BenchOptions(
        sizes(prompt, "512", "-p"),
        sizes(generate, "128", "-n"),
        repetitions,
        seed,
        batch_sizes=sizes(batch, "0", "-b"),
        depths=numbers(depth, "0", "-d"),
    )
    with output.progress() as bars:
        report = bench_model(
            folder,
            options,
            backend=backend,
            threads=numbers(threads, "", "-t"),
            activations=activations,
            roofline=roofline,
            preload=preload,
            preload_progress=preload_bar(bars),
            progress=_bar(bars),
        )
    if report.warning is not None:
        output.warn(report.warning)
    if json or form == "json":
        output.emit_json(bench_text.as_json(report))
    elif form in ("csv", "jsonl"):
        output.emit(bench_text.as_csv(report) if form == "csv" else bench_text.as_jsonl(report))
    else:
        if form == "md":
            output.emit(bench_text.as_markdown(report))
        else:
            for columns, rows in bench_text.tables(report):
                output.table("", columns, rows)
            output.emit(bench_text.footer(report))
        output.emit(bench_text.as_line(report))


def _bar(bars: Progress) -> Callable[[str, int, int], None]:
    task = bars.add_task("warm-up", total=None, speed="")

    def show(test: str, done: int, total: int) -> None:
        bars.update(task, description=test, completed=done, total=total)

    return show
