"""A report as a page: Markdown, or one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from cg.quant.plots import STYLE
from cg.quant.staging import output_errors
from cg.runtime import cache_file
from cg.runtime.errors import UsageError

__all__ = ["Block", "Page", "check_report_paths", "write_page", "write_text"]

_SUFFIXES = {".md": "report.md.jinja", ".html": "report.html.jinja"}


@dataclass(frozen=True, slots=True)
class Block:
    """A headed part of a page: text, a plot, a table, in this order, each of which may be absent."""

    title: str
    text: str = ""
    plot: str = ""
    """An SVG element; Markdown leaves it out."""
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    code: frozenset[int] = frozenset()
    """Columns that hold code."""
    folded: bool = False
    """A long table, shown on a click in HTML."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a report says."""

    title: str
    lead: tuple[str, ...]
    """Sentences at the top."""
    blocks: tuple[Block, ...]
    foot: tuple[str, ...]
    """How it came about."""
    verdict: str | None = None
    """What was missed, ``passed``, or None without a threshold."""

    @property
    def passed(self) -> bool:
        """Whether every threshold was kept."""
        return self.verdict == "passed"


def check_report_paths(paths: Sequence[Path], suffixes: Collection[str] = tuple(_SUFFIXES)) -> None:
    """Refuse, before anything is computed, what could not be written at the end.

    Raises:
        UsageError: an unknown kind of file, or a folder in its place.
    """
    for path in paths:
        if path.suffix.lower() not in suffixes:
            raise UsageError(
                f"{path}: unknown kind of report", hint=f"its name must end in {' or '.join(suffixes)}"
            )
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a file")


def write_page(page: Page, path: Path) -> None:
    """Write a page in the form that the file's name asks for; an older file is replaced in one step.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, _render(page, path.suffix.lower()))


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(path):
        cache_file.keep(path, text.encode("utf-8"))


def _render(page: Page, suffix: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=suffix == ".html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md_code"] = _markdown_code
    environment.filters["md_text"] = _markdown_text
    return environment.get_template(_SUFFIXES[suffix]).render(page=page, style=STYLE)


def _markdown_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def _markdown_code(text: str) -> str:
    if not text:
        return ""
    line = text.replace("\n", " ⏎ ").replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in _runs_of_ticks(line)), default=0))
    return f"{ticks} {line} {ticks}" if len(ticks) > 1 else f"`{line}`"


def _runs_of_ticks(line: str) -> list[str]:
    return "".join(c if c == "`" else " " for c in line).split()
