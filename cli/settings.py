r"""Settings that come from a file: flag > environment > file > default.

The file is ``config.toml`` in cg's configuration folder (``~/.config/cg`` on Linux, ``~/Library/Application
Support/cg`` on macOS, ``%APPDATA%\cg`` on Windows), or the one that ``CG_CONFIG`` names. Keys: ``model``,
``backend``, ``threads``, ``preload``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from cg.runtime.errors import UsageError

__all__ = ["KEYS", "config_file", "default_map", "read"]

KEYS = {"model": str, "backend": str, "threads": int, "preload": bool}


def config_file() -> Path:
    """Where the settings file is looked for."""
    named = os.environ.get("CG_CONFIG")
    return Path(named) if named else Path(typer.get_app_dir("cg")) / "config.toml"


def read() -> dict[str, Any]:
    """The settings file's content, or an empty dictionary if there is none.

    Raises:
        UsageError: the file is not TOML, or has an unknown key or a value of the wrong type.
    """
    file = config_file()
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {error}") from error
    import tomllib

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: {error}") from error
    for key, value in values.items():
        if key not in KEYS:
            raise UsageError(f"{file}: unknown key {key!r}", hint=f"known keys: {', '.join(KEYS)}")
        if type(value) is not KEYS[key]:
            raise UsageError(f"{file}: {key} is {value!r}, expected {KEYS[key].__name__}")
    return values


def default_map(command: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` as defaults of the options of the same name of every command below ``command``."""
    below = getattr(command, "commands", {})
    return {name: {**_fitting(child, values), **default_map(child, values)} for name, child in below.items()}


def _fitting(command: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the command's options take them: one that may be repeated takes a list."""
    repeated = {option.name for option in command.params if getattr(option, "multiple", False)}
    return {name: [value] if name in repeated else value for name, value in values.items()}
