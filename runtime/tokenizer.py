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

from cg.runtime.compact_vocabulary import open_vocabulary
from cg.runtime.detokenizer import Detokenizer
from cg.runtime.errors import PromptError, TokenizerError
from cg.runtime.home import tokenizers_folder
from cg.runtime.vocabulary import ModelVocabulary, Vocabulary, read_json

__all__ = ["ControlLiteral", "Tokenizer"]

_CONTROL_NAMES = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]", "<start_of_turn>", "<end_of_turn>",
    "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>",
)  # fmt: skip
"""Gemma's control tokens. Checkpoints do not agree on which of them they declare special."""
_UNUSED_NAMES = tuple(f"<unused{n}>" for n in range(1024))  # Gemma has 99, with gaps
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

    def __init__(
        self,
        vocabulary: Vocabulary,
        settings: dict[str, Any],
        config: dict[str, Any],
        *,
        note: str | None = None,
    ) -> None:
        """``settings`` is the content of tokenizer_config.json, ``config`` that of config.json.

        Raises:
            TokenizerError: special tokens missing or contradictory, or not a Gemma-style vocabulary.
        """
        self.note = note
        """Why loading took longer than it need, if it did."""
        self._vocabulary = vocabulary
        self._control = _control_tokens(vocabulary, settings)
        self._control_by_id = {token_id: name for name, token_id in reversed(self._control.items())}
        self._pattern = _literal_pattern(self._control)
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
                f"{vocabulary.file}: text does not survive encoding and decoding: not Gemma's tokenizer"
            )

    @classmethod
    def load(cls, folder: Path, *, prefer: Literal["json", "model"] = "json") -> Tokenizer:
        """The tokenizer of a checkpoint: ``tokenizer.json``, or ``tokenizer.model`` where that is absent.

        What takes long to read in ``tokenizer.json`` is kept in :func:`cg.runtime.home.tokenizers_folder`.

        Raises:
            TokenizerError: neither file is there, or one is malformed or lacks a token.
        """
        files = {"json": folder / "tokenizer.json", "model": folder / "tokenizer.model"}
        kinds = sorted(
            (kind for kind, file in files.items() if file.is_file()), key=lambda kind: kind != prefer
        )
        if not kinds:
            raise TokenizerError(
                f"{folder}: neither tokenizer.json nor tokenizer.model is there",
                hint="copy the tokenizer files of the original model into this folder",
            )
        file = files[kinds[0]]
        note: str | None = None
        vocabulary: Vocabulary
        if kinds[0] == "json":
            vocabulary, note = open_vocabulary(file, tokenizers_folder())
        else:
            vocabulary = ModelVocabulary(file)
        settings, config = read_json(folder / "tokenizer_config.json"), read_json(folder / "config.json")
        return cls(vocabulary, settings, config, note=note)

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
            # A control token falls apart: "…<" here, "|fim_middle|>…" in the next piece.
            stop = match.end() if match.lastindex is not None else match.start()
            if start < stop:
                ids += encode(text[start:stop])
            if match.lastindex is None:
                ids += [self._byte_ids[byte] for byte in match[0].encode()]
            start = match.end()
        return ids + encode(text[start:]) if start < len(text) else ids

    def find_control(self, text: str) -> Iterator[ControlLiteral]:
        """Every spelling of a control token in ``text``, from left to right; they may overlap."""
        for match in self._pattern.finditer(text):
            if match.lastindex is not None:
                rest = match[match.lastindex]
                token_id = self._control[match[0] + rest]
                yield ControlLiteral(match.start(), match.end() + len(rest), token_id)

    def control_id(self, token: str) -> int:
        """The id of a control token by its name, e.g. ``<|fim_prefix|>``.

        Raises:
            TokenizerError: this vocabulary has no control token of that name.
        """
        found = self._control.get(token)
        if found is None:
            raise TokenizerError(f"{self._vocabulary.file}: the vocabulary has no control token {token}")
        return found

    def has_control(self, token: str) -> bool:
        """Whether the vocabulary has a control token of this name."""
        return token in self._control

    def control_names(self) -> tuple[str, ...]:
        """The spellings of all control tokens."""
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
            name = self._name(token_id)
            text = "" if token_id in self._control_by_id else name.replace(_SPACE, " ")
            known = self._bytes[token_id] = text.encode()
        return known

    def _shown_bytes(self, token_id: int) -> bytes:
        return self.token_bytes(token_id) or self._name(token_id).encode()

    def _name(self, token_id: int) -> str:
        name = self._control_by_id.get(token_id)  # first: tokenizer_config.json may rename a token
        if name is None and 0 <= token_id < self._vocabulary.size:
            name = self._vocabulary.token(token_id)
        if name is None:
            raise TokenizerError(f"token id {token_id} is outside the vocabulary of {self._vocabulary.size}")
        return name

    def _find_byte_ids(self) -> list[int]:
        """The ids of the 256 byte tokens. Gemma's tokenizer.json calls one of them, ``<0x09>``, a tab."""
        find = self._vocabulary.token_id
        ids: list[int] = []
        for value in range(256):
            token_id = find(f"<0x{value:02X}>")
            if token_id is None and value < 128:
                token_id = find(chr(value))
            if token_id is None:
                raise TokenizerError(
                    f"{self._vocabulary.file}: byte token <0x{value:02X}> is missing: not Gemma's tokenizer"
                )
            ids.append(token_id)
        return ids

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
    control: dict[str, int] = {}
    # First: CodeGemma's tokenizer.model may still call the FIM tokens <unused60> to <unused63>.
    for name, token_id in _declared_tokens(settings):
        known = control.setdefault(name, token_id), vocabulary.token_id(name)
        if token_id >= vocabulary.size or not {*known} <= {token_id, None}:
            raise TokenizerError(
                f"tokenizer_config.json: added_tokens_decoder gives {name} the id {token_id}, "
                f"{vocabulary.file.name} says otherwise",
                hint="the tokenizer files belong to different models",
            )
    control |= vocabulary.special
    for name in (*_CONTROL_NAMES, *_UNUSED_NAMES):
        found = vocabulary.token_id(name)
        if found is not None:
            control[name] = found
    return control | {name.replace(_SPACE, " "): token_id for name, token_id in control.items()}


def _declared_tokens(settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Control tokens in tokenizer_config.json's ``added_tokens_decoder``."""
    declared = settings.get("added_tokens_decoder") or {}
    if not isinstance(declared, dict):
        raise TokenizerError("tokenizer_config.json: added_tokens_decoder is not an object")
    for key, entry in declared.items():
        name = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not re.fullmatch("[0-9]{1,9}", key):
            raise TokenizerError(f"tokenizer_config.json: added_tokens_decoder has a malformed entry {key!r}")
        if entry.get("special") or name in _CONTROL_NAMES:
            yield name, int(key)


def _literal_pattern(control: Iterable[str]) -> re.Pattern[str]:
    """A pattern whose matches are the first characters of control literals, overlapping ones too.

    The rest of the literal is in the match's last group. Matches without a group are characters that must
    be spelt in bytes, because the libraries would read them as something else.
    """
    rests: dict[str, list[str]] = {}
    for name in sorted(control, key=len, reverse=True):
        rests.setdefault(name[0], []).append(re.escape(name[1:]))
    as_bytes = [re.escape(first) for first, rest in rests.items() if "" in rest]
    branches = [
        f"{re.escape(first)}(?=({'|'.join(rest)}))" for first, rest in rests.items() if "" not in rest
    ]
    return re.compile("|".join([_SPACE, *as_bytes, *branches]))


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"character {error.start} of the text is a lone surrogate (U+{ord(text[error.start]):04X}), "
            "which cannot be encoded",
            hint="the text is not valid Unicode; check the encoding of the file that it comes from",
        ) from error
