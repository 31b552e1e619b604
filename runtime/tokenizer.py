"""Text to token ids and back, the same from ``tokenizer.json`` and from ``tokenizer.model``.

Two promises hold whatever the text is. Control tokens never come from text: a source file that
contains ``<|fim_middle|>`` is encoded as the characters that it consists of. And decoding gives back
every byte that was encoded, white space included. Apart from that, ids are those of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cg.runtime.detokenizer import Detokenizer
from cg.runtime.errors import PromptError, TokenizerError
from cg.runtime.vocabulary import JsonVocabulary, ModelVocabulary, Vocabulary, read_json

__all__ = ["ControlLiteral", "Tokenizer"]

_CONTROL_NAMES = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]", "<start_of_turn>", "<end_of_turn>",
    "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>",
)  # fmt: skip
"""Gemma's control tokens. Checkpoints do not agree on which of them they declare special."""
_UNUSED = r"<unused[0-9]+>"
_SPACE = "▁"  # stands for a space inside token names, in both libraries
_PROBE = "  if x:\n\n\t\tпо é\U0001f642\0 \n"  # the shapes on which tokenizers of other families lose bytes


@dataclass(frozen=True, slots=True)
class ControlLiteral:
    """The spelling of a control token, found in a text at ``[start, stop)``."""

    start: int
    stop: int
    token_id: int


class Tokenizer:
    """A Gemma tokenizer with its control tokens checked."""

    def __init__(self, vocabulary: Vocabulary, settings: dict[str, Any], config: dict[str, Any]) -> None:
        """``settings`` is the content of tokenizer_config.json, ``config`` that of config.json.

        Raises:
            TokenizerError: special tokens missing or contradictory, or not a Gemma-style vocabulary.
        """
        self._vocabulary = vocabulary
        self._control = _control_tokens(vocabulary, settings)
        self._pattern, self._as_bytes = _literal_pattern(self._control)
        self._bytes: dict[int, bytes] = {}  # filled as ids are met: a whole table costs 0.2 s for Gemma
        self._byte_ids = self._find_byte_ids()
        self._bytes.update((token_id, bytes([value])) for value, token_id in enumerate(self._byte_ids))
        self.vocab_size = vocabulary.size
        self.bos_id = self._special_id("bos", settings, config)
        self.eos_id = self._special_id("eos", settings, config)
        self.pad_id = self._special_id("pad", settings, config)
        self.unk_id = self._special_id("unk", settings, config)
        if self.decode(self.encode(_PROBE)) != _PROBE:
            raise TokenizerError(
                f"{vocabulary.file}: text does not survive encoding and decoding, so this is not Gemma's tokenizer"
            )

    @classmethod
    def load(cls, folder: Path, *, prefer: Literal["json", "model"] = "json") -> Tokenizer:
        """The tokenizer of a checkpoint: ``tokenizer.json``, or ``tokenizer.model`` where that is absent.

        Raises:
            TokenizerError: neither file is there, or one is malformed or lacks a token.
        """
        files = {"json": folder / "tokenizer.json", "model": folder / "tokenizer.model"}
        kinds = sorted((kind for kind, file in files.items() if file.is_file()), key=lambda kind: kind != prefer)
        if not kinds:
            raise TokenizerError(
                f"{folder}: neither tokenizer.json nor tokenizer.model is there",
                hint="copy the tokenizer files of the original model into this folder",
            )
        file = files[kinds[0]]
        vocabulary: Vocabulary = JsonVocabulary(file) if kinds[0] == "json" else ModelVocabulary(file)
        return cls(vocabulary, read_json(folder / "tokenizer_config.json"), read_json(folder / "config.json"))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no control token, no BOS.

        Raises:
            PromptError: the text holds a lone surrogate, which no UTF-8 file can contain.
        """
        _check_unicode(text)
        encode = self._vocabulary.encode
        ids: list[int] = []
        start = 0
        for match in self._pattern.finditer(text):
            stop = match.end()
            if match[0] in self._as_bytes:
                ids += encode(text[start : match.start()]) if start < match.start() else []
                ids += [self._byte_ids[byte] for byte in match[0].encode()]
            elif self._literal(match) is not None:
                ids += encode(text[start:stop])  # "…<" here, "|fim_middle|>…" in the next piece
            else:
                continue
            start = stop
        return ids + encode(text[start:]) if start < len(text) else ids

    def find_control(self, text: str) -> Iterator[ControlLiteral]:
        """Every spelling of a control token in ``text``, from left to right; they do not overlap."""
        free = 0
        for match in self._pattern.finditer(text):
            literal = self._literal(match)
            if literal is not None and literal.start >= free:
                free = literal.stop
                yield literal

    def control_id(self, token: str) -> int:
        """The id of a control token by its name, e.g. ``<|fim_prefix|>``.

        Raises:
            TokenizerError: this vocabulary has no control token of that name.
        """
        found = self._control_id(token)
        if found is None:
            raise TokenizerError(f"{self._vocabulary.file}: the vocabulary has no control token {token}")
        return found

    def has_control(self, token: str) -> bool:
        """Whether the vocabulary has a control token of this name."""
        return self._control_id(token) is not None

    def control_names(self) -> tuple[str, ...]:
        """The names of the control tokens, without ``<unused…>`` ones that the file does not declare."""
        return tuple(self._control)

    def decode(self, ids: Iterable[int], *, show_control: bool = False) -> str:
        """The text of ``ids``, white space exact; control tokens are left out unless they are asked for.

        Bytes that are not UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        token_bytes = self._shown_bytes if show_control else self.token_bytes
        return b"".join(map(token_bytes, ids)).decode("utf-8", "replace")

    def stream(self) -> Detokenizer:
        """A detokenizer for one answer, fed id by id."""
        return Detokenizer(self.token_bytes)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for a control token.

        Raises:
            TokenizerError: the id is outside the vocabulary.
        """
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = b"" if self._is_control(token_id) else self._named_bytes(token_id)
        return known

    def _shown_bytes(self, token_id: int) -> bytes:
        return self.token_bytes(token_id) or self._name(token_id).encode()

    def _named_bytes(self, token_id: int) -> bytes:
        return self._name(token_id).replace(_SPACE, " ").encode()

    def _is_control(self, token_id: int) -> bool:
        return self._control_id(self._name(token_id)) == token_id

    def _name(self, token_id: int) -> str:
        for name, control_id in self._control.items():  # first: tokenizer_config.json may rename a token
            if control_id == token_id:
                return name
        name = self._vocabulary.token(token_id) if 0 <= token_id < self._vocabulary.size else None
        if name is None:
            raise TokenizerError(f"token id {token_id} is outside the vocabulary of {self._vocabulary.size}")
        return name

    def _control_id(self, token: str) -> int | None:
        declared = self._control.get(token)
        if declared is None and re.fullmatch(_UNUSED, token):
            return self._vocabulary.token_id(token)
        return declared

    def _literal(self, match: re.Match[str]) -> ControlLiteral | None:
        """The control token that starts where the pattern found its first character."""
        if match.lastindex is None:
            return None
        rest = match[match.lastindex]
        token_id = self._control_id(match[0] + rest)
        return None if token_id is None else ControlLiteral(match.start(), match.end() + len(rest), token_id)

    def _find_byte_ids(self) -> list[int]:
        ids = [self._vocabulary.token_id(f"<0x{value:02X}>") for value in range(256)]
        found = [token_id for token_id in ids if token_id is not None]
        if len(found) < len(ids):
            raise TokenizerError(
                f"{self._vocabulary.file}: the byte token <0x{ids.index(None):02X}> is missing, "
                "so this is not Gemma's tokenizer"
            )
        return found

    def _special_id(self, role: str, settings: dict[str, Any], config: dict[str, Any]) -> int:
        """``<bos>`` and the like: named by tokenizer_config.json, and config.json must agree."""
        name = settings.get(f"{role}_token") or f"<{role}>"
        if isinstance(name, dict):
            name = name.get("content")
        if not isinstance(name, str):
            raise TokenizerError(f"tokenizer_config.json: {role}_token is {name!r}, expected a token's name")
        token_id = self.control_id(name)
        stated = config.get(f"{role}_token_id")
        accepted = stated if isinstance(stated, list) else [stated]
        if stated is not None and token_id not in accepted:
            raise TokenizerError(
                f"config.json: {role}_token_id is {stated}, but {self._vocabulary.file.name} gives {name} "
                f"the id {token_id}",
                hint="the tokenizer files belong to another model",
            )
        return token_id


def _control_tokens(vocabulary: Vocabulary, settings: dict[str, Any]) -> dict[str, int]:
    """All control tokens by name: declared special by a file, or known as such in every Gemma."""
    control = dict(vocabulary.special)
    for name in _CONTROL_NAMES:
        token_id = vocabulary.token_id(name)
        if token_id is not None:
            control[name] = token_id
    # CodeGemma's tokenizer.model may still call the FIM tokens <unused60> to <unused63>.
    for key, entry in (settings.get("added_tokens_decoder") or {}).items():
        name = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not (entry.get("special") or name in _CONTROL_NAMES):
            continue
        if not key.isdecimal() or int(key) >= vocabulary.size or control.setdefault(name, int(key)) != int(key):
            raise TokenizerError(
                f"tokenizer_config.json: added_tokens_decoder gives {name} the id {key}, "
                f"{vocabulary.file.name} says otherwise"
            )
    return control


def _literal_pattern(control: Iterable[str]) -> tuple[re.Pattern[str], frozenset[str]]:
    """A pattern whose matches are the first characters of possible control literals, overlapping ones too.

    A literal's other characters are in the match's last group. Matches without a group are the
    characters of the second result: they must be spelt in bytes, because the libraries would read them
    as something else.
    """
    spellings = {name for token in control for name in (token, token.replace(_SPACE, " "))}
    as_bytes = frozenset({_SPACE} | {name for name in spellings if len(name) == 1})
    rests: dict[str, list[str]] = {"<": [_UNUSED[1:]]}
    for name in sorted(spellings - as_bytes, key=len, reverse=True):
        rests.setdefault(name[0], []).append(re.escape(name[1:]))
    branches = [f"{re.escape(first)}(?=({'|'.join(rest)}))" for first, rest in rests.items()]
    return re.compile("|".join([*map(re.escape, sorted(as_bytes)), *branches])), as_bytes


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"character {error.start} of the text is a lone surrogate (U+{ord(text[error.start]):04X}), "
            "which cannot be encoded",
            hint="the text is not valid Unicode; check the encoding of the file that it comes from",
        ) from error
