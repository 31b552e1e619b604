"""The files beside the weights: tokenizer, generation settings, licence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["companion_files", "copy_companions", "json_bytes", "write_file"]

_COPIED = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "generation_config.json", "chat_template.jinja", "chat_template.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "NOTICE.md",
)  # fmt: skip


def companion_files(folder: Path) -> tuple[Path, ...]:
    """The files of a source folder that its quantized form takes along unchanged."""
    return tuple(folder / name for name in _COPIED if (folder / name).is_file())


def copy_companions(files: tuple[Path, ...], folder: Path) -> None:
    """Copy contents (not links: the Hub's cache is made of links) and force them to the disk."""
    for file in files:
        target = folder / file.name
        shutil.copyfile(file, target)
        _sync(target)


def write_file(path: Path, content: bytes) -> None:
    """Write a small file and force it to the disk."""
    path.write_bytes(content)
    _sync(path)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """JSON as Hugging Face writes it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
