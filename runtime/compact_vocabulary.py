"""``tokenizer.json`` without the tokenizers library, which needs a second to read Gemma's 256,000 entries.

The first start makes a compact form of the file and keeps it in cg's folder; later ones map that. Compiled
code encodes with it. The name is the SHA-256 of ``tokenizer.json``, so that a changed tokenizer gets a form
of its own. It is a cache: absent, damaged, forged or impossible to write, it costs time and nothing else.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cg.runtime.cache_file import keep, prune
from cg.runtime.errors import TokenizerError
from cg.runtime.vocabulary import JsonVocabulary, Vocabulary

if TYPE_CHECKING:
    from cg.runtime.tensor import Bytes

__all__ = ["CompactVocabulary", "open_vocabulary"]

_SUFFIX = ".vocabulary"
_VERSION = f"-v1{_SUFFIX}"  # changes with the layout in native/vocabulary.cpp
_KEPT = 8
"""Files at most, 22 MB each for Gemma; the oldest go."""


class CompactVocabulary:
    """A vocabulary in a mapped file. Its ids are those of :class:`JsonVocabulary`.

    As with weights, the file must not be changed while it is mapped: cg only ever replaces whole files.

    Raises:
        ValueError: the block is damaged, or made from another file than the one with this digest.
    """

    def __init__(self, file: Path, block: Bytes, digest: bytes) -> None:
        import cg.runtime._native as _native

        self.file = file
        self._native = _native.Vocabulary(block, digest)
        self.size = self._native.size
        self.special = {name: i for i in self._native.special if (name := self.token(i)) is not None}

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` without any extra token."""
        try:
            return self._native.encode(text)
        except (TypeError, ValueError) as error:  # a lone surrogate; a gigabyte
            raise TokenizerError(f"{self.file}: cannot encode: {error}") from error

    def token_id(self, token: str) -> int | None:
        """The id of the token with exactly this name."""
        return self._native.token_id(token)

    def token(self, token_id: int) -> str | None:
        """The name of an id."""
        return self._native.token(token_id)


def open_vocabulary(file: Path, folder: Path | None) -> tuple[Vocabulary, str | None]:
    """A ``tokenizer.json``, and a word on why its compact form in ``folder`` was not used or not kept.

    Raises:
        TokenizerError: the file cannot be read, or the library does not understand it either.
    """
    if not _has_kernels():
        return JsonVocabulary(file), None
    if folder is None:
        return _make(file, None, f"there is no home folder to keep the compact form of {file.name} in")
    digest = _digest(file)
    note = None
    try:
        return CompactVocabulary(file, _map(_place(folder, digest)), digest), None
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        note = f"{_place(folder, digest)}: {error}; made anew"
    return _make(file, folder, note)


def _make(file: Path, folder: Path | None, note: str | None) -> tuple[Vocabulary, str | None]:
    """Make the compact form, use it and keep it for the next time."""
    import hashlib

    from cg.runtime.compact_form import compact_form

    content = _read(file)
    digest = hashlib.sha256(content).digest()  # of what is read now: the file may have changed meanwhile
    try:
        block = compact_form(content, digest)
    except ValueError as error:
        return JsonVocabulary(file), f"{file}: starts take longer, there is no compact form: {error}"
    try:
        if folder is not None:
            keep(_place(folder, digest), block)
            prune(folder.glob(f"*{_SUFFIX}"), folder, most=_KEPT)
    except OSError as error:
        note = f"{folder}: the compact form of {file.name} cannot be kept here: {error.strerror or error}"
    return CompactVocabulary(file, np.frombuffer(block, np.uint8), digest), note


def _has_kernels() -> bool:
    try:
        import cg.runtime._native  # noqa: F401
    except ImportError:  # cg.runtime.ops tells why
        return False
    return True


def _place(folder: Path, digest: bytes) -> Path:
    return folder / (digest.hex() + _VERSION)


def _map(file: Path) -> Bytes:
    with file.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _digest(file: Path) -> bytes:
    import hashlib

    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise _unreadable(file, error) from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> TokenizerError:
    return TokenizerError(f"{file}: cannot be read: {error.strerror or error}")
