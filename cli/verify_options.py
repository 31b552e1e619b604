"""Options that ``cg verify`` and ``cg compare`` share, and their progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cg.cli.options import BackendName

if TYPE_CHECKING:
    from rich.progress import Progress

    from cg.quant.evaluation_text import EvaluationText

__all__ = [
    "AgainstOption",
    "ChunksOption",
    "ContextOption",
    "HolesOption",
    "LanguageOption",
    "ReferenceOption",
    "ReportOption",
    "TextOption",
    "read_texts",
    "show_progress",
]

AgainstOption = Annotated[str, typer.Option("--against", "-a", help="The original that it was made from.")]
TextOption = Annotated[
    list[Path] | None,
    typer.Option("--text", help="A UTF-8 file to evaluate on; repeatable. Default: bundled Python."),
]
LanguageOption = Annotated[
    list[str] | None,
    typer.Option("--language", help="A bundled text to evaluate on, or all; repeatable. Default: python."),
]
ContextOption = Annotated[
    int | None, typer.Option("--context", help="Tokens per chunk; default: 512, or the model's context.")
]
ChunksOption = Annotated[
    int,
    typer.Option("--chunks", min=0, help="Evaluate at most this many chunks of each text; 0 is all of it."),
]
HolesOption = Annotated[
    int | None,
    typer.Option("--holes", min=0, help="Holes per text that the models fill; 0 is off. [default: 8]"),
]
ReferenceOption = Annotated[
    BackendName | None,
    typer.Option("--reference-backend", help="What computes the original; default: as --backend."),
]
ReportOption = Annotated[
    list[Path] | None,
    typer.Option("--report", help="Also write a report: NAME.md or NAME.html; repeatable."),
]


def read_texts(files: Sequence[Path] | None, languages: Sequence[str] | None) -> list[EvaluationText]:
    """The texts that the options name: files joined to one, then bundled ones."""
    from cg.quant.evaluation_text import HELD_OUT, read_held_out, read_text

    texts = [read_text(files)] if files else []
    wanted = list(HELD_OUT) if "all" in (languages or ()) else languages or ([] if files else ["python"])
    return texts + [read_held_out(language) for language in dict.fromkeys(wanted)]


def show_progress(bars: Progress) -> Callable[[str, int, int], None]:
    """One bar that names what is being computed."""
    task = bars.add_task("reading", total=None, speed="")

    def show(stage: str, done: int, total: int) -> None:
        bars.update(task, description=stage, completed=done, total=total)

    return show
