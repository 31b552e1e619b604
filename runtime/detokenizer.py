"""Token bytes in, text out, one token at a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable

__all__ = ["Detokenizer"]


class Detokenizer:
    """Turns ids into text as they arrive, and never gives out half a character.

    What :meth:`push` and :meth:`finish` return, put together, is what ``Tokenizer.decode`` returns for
    all ids at once. Bytes that can no longer become UTF-8 come out as U+FFFD.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that are complete with this token, often none, sometimes several."""
        return self._utf8.decode(self._token_bytes(token_id))

    def finish(self) -> str:
        """What is left: U+FFFD if the last character is incomplete, else nothing. Ready for new ids."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
