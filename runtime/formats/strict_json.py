"""JSON from files that nobody vouches for: one object, no duplicate keys, no NaN, no surprises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from cg.runtime.errors import CheckpointError, DuplicateNameError, FormatError

__all__ = ["is_index", "parse_object", "read_object"]

_FILE_LIMIT = 64 << 20


def parse_object(text: bytes, where: str, error: type[FormatError]) -> dict[str, Any]:
    """Parse UTF-8 JSON whose top level is an object.

    Raises:
        DuplicateNameError: a key occurs twice in one object.
        error: anything else that is wrong; ``where`` names the file in the message.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DuplicateNameError(f"{where}: the name {key[:200]!r} occurs twice")
            found[key] = value
        return found

    def constant(name: str) -> NoReturn:
        raise error(f"{where}: {name} is not JSON")

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except RecursionError:
        raise error(f"{where}: JSON nested too deeply") from None
    except ValueError as e:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise error(f"{where}: not valid JSON ({str(e)[:200]})") from None
    if not isinstance(value, dict):
        raise error(f"{where}: the top level is not a JSON object")
    return value


def read_object(path: Path, error: type[FormatError] = CheckpointError) -> dict[str, Any]:
    """Read a small JSON file, see :func:`parse_object`; an unreadable one is an ``error`` too."""
    try:
        if not path.is_file():  # a pipe would block, a device would never end
            raise error(f"{path} is missing or not a file")
        with path.open("rb") as file:
            text = file.read(_FILE_LIMIT + 1)
    except OSError as e:
        raise error(f"{path} cannot be read: {e.strerror or e}") from None
    if len(text) > _FILE_LIMIT:
        raise error(f"{path} is larger than {_FILE_LIMIT >> 20} MiB")
    return parse_object(text, str(path), error)


def is_index(value: Any) -> bool:
    """Whether a JSON value is an integer from 0; True and 1.0 are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
