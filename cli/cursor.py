"""Where the cursor stands: the text before and after it, from whatever the user gave."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from cg.runtime.errors import UsageError

__all__ = ["MARKER", "Cursor", "from_marker", "from_position", "from_texts", "locate", "read_source"]

MARKER = "<CURSOR>"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The text around a cursor; ``suffix`` is None where nothing is known of what follows."""

    prefix: str
    suffix: str | None
    path: str | None = None


def locate(
    prefix: str | None, suffix: str | None, file: Path | None, line: int | None, column: int | None
) -> Cursor:
    """From the options of ``cg complete``, or standard input where there are none.

    Raises:
        UsageError: options that contradict each other, or nothing to complete.
    """
    if file is not None:
        if prefix is not None or suffix is not None:
            raise UsageError("--file and --prefix/--suffix exclude each other")
        if line is None or column is None:
            raise UsageError("--file needs --line and --column")
        return from_position(file, line, column)
    if line is not None or column is not None:
        raise UsageError("--line and --column need --file")
    if prefix is not None or suffix is not None:
        return from_texts(prefix or "", suffix)
    if sys.stdin.isatty():
        raise UsageError(
            "nothing to complete", hint="give --prefix, --file, or a text with <CURSOR> on standard input"
        )
    return from_marker(read_source(Path("-")))


def from_texts(prefix: str, suffix: str | None) -> Cursor:
    """From ``--prefix`` and ``--suffix``: text, or ``@FILE`` for a file's content (``@@`` is a plain @)."""
    return Cursor(_text_or_file(prefix), None if suffix is None else _text_or_file(suffix))


def from_position(file: Path, line: int, column: int) -> Cursor:
    """From a place in a file; line and column count from 1, the column in characters.

    Raises:
        UsageError: the file cannot be read, or has no such place.
    """
    text = read_source(file)
    lines = re.split(r"(?<=\n)", text)  # not splitlines: no editor ends a line at a form feed
    if not 1 <= line <= len(lines):
        raise UsageError(f"{file} has {len(lines)} lines, there is no line {line}")
    width = len(lines[line - 1].rstrip("\r\n"))
    if not 1 <= column <= width + 1:
        raise UsageError(
            f"{file}:{line} has {width} characters, there is no column {column}",
            hint=f"columns count from 1; {width + 1} is the end of the line",
        )
    at = sum(map(len, lines[: line - 1])) + column - 1
    return Cursor(text[:at], text[at:], file.as_posix())


def from_marker(text: str, source: str = "standard input") -> Cursor:
    """From a text with the marker ``<CURSOR>`` in it, exactly once."""
    count = text.count(MARKER)
    if count != 1:
        raise UsageError(
            f"{source} contains the marker {MARKER} {count} times, expected once",
            hint=f"put {MARKER} where the completion belongs, or use --prefix and --suffix",
        )
    prefix, _, suffix = text.partition(MARKER)
    return Cursor(prefix, suffix)


def read_source(file: Path) -> str:
    """A source file as it is: UTF-8, line ends untouched; ``-`` is standard input."""
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error


def _text_or_file(value: str) -> str:
    if value.startswith("@@"):
        return value[1:]
    return read_source(Path(value[1:])) if value.startswith("@") else value
