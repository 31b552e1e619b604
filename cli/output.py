"""What a command prints: data to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = [
    "detail",
    "emit",
    "emit_json",
    "error",
    "format_size",
    "note",
    "progress",
    "set_verbosity",
    "table",
    "warn",
]

_QUIET, _NORMAL, _VERBOSE = -1, 0, 1
_verbosity = _NORMAL


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Quiet drops notes and progress, verbose adds details."""
    global _verbosity
    _verbosity = _QUIET if quiet else _VERBOSE if verbose else _NORMAL


def emit(text: str, *, end: str = "\n") -> None:
    """Write data to standard output at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def emit_json(value: Any) -> None:
    """Write a value as indented JSON to standard output."""
    emit(json.dumps(value, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """Tell the user something on standard error, unless quiet."""
    if _verbosity >= _NORMAL:
        _to_stderr(message)


def warn(message: str) -> None:
    """Warn on standard error, also when quiet."""
    _to_stderr(f"warning: {message}")


def error(message: str, hint: str | None) -> None:
    """Tell on standard error what went wrong and what to do about it, also when quiet."""
    _to_stderr(f"error: {message}")
    if hint:
        _to_stderr(f"hint: {hint}")


def detail(message: str) -> None:
    """Tell something on standard error that only ``--verbose`` asks for."""
    if _verbosity >= _VERBOSE:
        _to_stderr(message)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress bars on standard error with speed and time left; silent when quiet or not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = _console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    hidden = _verbosity < _NORMAL or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        yield bars


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; the first column is left-aligned, the others right."""
    from rich import box
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        grid.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    console = _console(stderr=False)
    if not console.is_terminal:
        console.width = 240  # a pipe has no width; never cut a name
    console.print(grid)


def format_size(size: int) -> str:
    """Bytes in the decimal units that the Hub's pages use."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=False)


def _to_stderr(message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
