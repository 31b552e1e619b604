"""The two tokenizer libraries behind one small interface: text to ids, names to ids, ids to names.

Nothing here knows which tokens a user may write; that is :mod:`cg.runtime.tokenizer`'s business.
Each library is imported only when its file is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cg.runtime.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["JsonVocabulary", "ModelVocabulary", "Vocabulary", "read_json"]


class Vocabulary(Protocol):
    """What a tokenizer library supplies."""

    file: Path
    size: int
    """Number of ids, added tokens included."""
    special: dict[str, int]
    """Tokens that the file itself declares special, by name."""

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` without any extra token; control tokens in the text are NOT kept apart."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of the token with exactly this name."""
        ...

    def token(self, token_id: int) -> str | None:
        """The name of an id, ``▁`` for a space."""
        ...


class JsonVocabulary:
    """``tokenizer.json``, through the tokenizers library.

    Raises:
        TokenizerError: the library cannot read the file.
    """

    def __init__(self, file: Path) -> None:
        import tokenizers

        self.file = file
        with _library_errors(f"{file}: not a tokenizer.json"):
            self._library: tokenizers.Tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self._library.no_truncation()  # a file may carry settings from somebody's training
        self._library.no_padding()
        self.size = self._library.get_vocab_size(with_added_tokens=True)
        added = self._library.get_added_tokens_decoder()
        self.special = {token.content: i for i, token in added.items() if token.special}

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` without any extra token."""
        with _library_errors(f"{self.file}: cannot encode"):
            ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def token_id(self, token: str) -> int | None:
        """The id of the token with exactly this name."""
        return self._library.token_to_id(token)

    def token(self, token_id: int) -> str | None:
        """The name of an id."""
        return self._library.id_to_token(token_id)


class ModelVocabulary:
    """``tokenizer.model``, through sentencepiece.

    Raises:
        TokenizerError: the library cannot read the file.
    """

    def __init__(self, file: Path) -> None:
        import sentencepiece

        self.file = file
        with _library_errors(f"{file}: not a sentencepiece model"):
            self._library: Any = sentencepiece.SentencePieceProcessor(model_file=str(file))
        self.size = int(self._library.get_piece_size())
        answers = self._library.IsControl(list(range(self.size)))  # one by one they take 0.1 s
        control = [i for i, is_control in enumerate(answers) if is_control]
        control.append(int(self._library.unk_id()))
        self.special = {name: i for i in control if (name := self.token(i)) is not None}

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` without any extra token."""
        with _library_errors(f"{self.file}: cannot encode"):
            ids: list[int] = self._library.encode(text, out_type=int, add_bos=False, add_eos=False)
        return ids

    def token_id(self, token: str) -> int | None:
        """The id of the token with exactly this name."""
        found = int(self._library.PieceToId(token))  # the unknown token's id when there is none
        return found if self.token(found) == token else None

    def token(self, token_id: int) -> str | None:
        """The name of an id."""
        with _library_errors(f"{self.file}: token {token_id} has no proper name"):  # it may not be UTF-8
            name: str | None = self._library.IdToPiece(token_id) if token_id < self.size else None
        return name


@contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """Whatever a library raises, as TokenizerError. A panic in tokenizers is not even an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise TokenizerError(f"{what}: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; an absent file is an empty object.

    Raises:
        TokenizerError: unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{file}: holds a JSON {type(value).__name__}, expected an object")
    return value
