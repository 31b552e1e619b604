"""Reading text files that a user names."""

from __future__ import annotations

from pathlib import Path

from cg.runtime.errors import UsageError

__all__ = ["read_utf8"]


def read_utf8(file: Path) -> str:
    """The text of a file, line ends as they are.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error
