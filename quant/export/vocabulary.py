"""A Gemma vocabulary as a list of sentencepiece pieces, which is how GGUF files hold it.

They are those of the file that cg itself reads: derived from ``tokenizer.json``, or those of
``tokenizer.model`` where that is absent. What is a control token, and what it is called, says
:class:`cg.runtime.tokenizer.Tokenizer`: all of them become control pieces, which no program reads from plain
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cg.quant.export.packages import sentencepiece_protobuf
from cg.runtime.errors import TokenizerError
from cg.runtime.formats.strict_json import read_object

if TYPE_CHECKING:
    from cg.runtime.tokenizer import Tokenizer

__all__ = ["PieceType", "Pieces", "model_file", "read_pieces"]

_SPACE = "▁"  # stands for a space in sentencepiece's pieces
_BYTES = {f"<0x{value:02X}>": chr(value) for value in range(256)}


class PieceType(IntEnum):
    """sentencepiece_model.proto's, and llama.cpp's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Pieces:
    """Texts, scores and types by token id; ``▁`` for a space in every text."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[PieceType, ...]

    def padded(self, size: int) -> Pieces:
        """With pieces that nothing stands for at the end, for an embedding with more rows."""
        more = range(len(self.texts), size)
        return Pieces(
            (*self.texts, *(f"[PAD{i}]" for i in more)),
            (*self.scores, *(0.0 for _ in more)),
            (*self.types, *(PieceType.UNUSED for _ in more)),
        )

    def stripped(self) -> Pieces:
        """The way back."""
        size = len(self.texts)
        while (
            size and self.types[size - 1] is PieceType.UNUSED and self.texts[size - 1] == f"[PAD{size - 1}]"
        ):
            size -= 1
        return Pieces(self.texts[:size], self.scores[:size], self.types[:size])


def read_pieces(folder: Path, tokenizer: Tokenizer) -> Pieces:
    """The pieces of a checkpoint folder, whose ``tokenizer`` that is.

    Raises:
        TokenizerError: a file is malformed, or the two disagree about the number of tokens.
        UsageError: the package that reads a ``tokenizer.model`` is not installed.
    """
    json_file = folder / "tokenizer.json"
    pieces = _from_json(json_file) if json_file.is_file() else _from_model(folder / "tokenizer.model")
    if len(pieces.texts) != tokenizer.vocab_size:
        raise TokenizerError(
            f"{folder}: the vocabulary has {len(pieces.texts)} pieces, the tokenizer {tokenizer.vocab_size}",
            hint="the tokenizer files belong to different models",
        )
    texts, types = list(pieces.texts), list(pieces.types)
    for token_id in {tokenizer.control_id(name) for name in tokenizer.control_names()}:
        texts[token_id] = tokenizer.decode([token_id], show_control=True)
        if types[token_id] is not PieceType.UNKNOWN:
            types[token_id] = PieceType.CONTROL
    return Pieces(tuple(texts), pieces.scores, tuple(types))


def model_file(pieces: Pieces) -> bytes:
    """A ``tokenizer.model`` of these pieces: byte-pair merging by score, bytes for unknown characters.

    Raises:
        TokenizerError: no piece, or more than one, stands for what is unknown.
        UsageError: the package that writes it is not installed.
    """
    if pieces.types.count(PieceType.UNKNOWN) != 1:
        raise TokenizerError(
            f"the vocabulary has {pieces.types.count(PieceType.UNKNOWN)} unknown tokens, expected one"
        )
    protobuf = sentencepiece_protobuf()
    model = protobuf.ModelProto()
    for text, score, kind in zip(pieces.texts, pieces.scores, pieces.types, strict=True):
        model.pieces.add(piece=text, score=score, type=int(kind))
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = protobuf.TrainerSpec.BPE
    trainer.vocab_size = len(pieces.texts)
    trainer.byte_fallback = True
    trainer.unk_id = pieces.types.index(PieceType.UNKNOWN)
    trainer.unk_piece = pieces.texts[trainer.unk_id]
    for role in ("bos", "eos", "pad"):
        piece = f"<{role}>"
        setattr(trainer, f"{role}_id", pieces.texts.index(piece) if piece in pieces.texts else -1)
        setattr(trainer, f"{role}_piece", piece)
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = False
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    content: bytes = model.SerializeToString()
    return content


def _from_model(file: Path) -> Pieces:
    protobuf = sentencepiece_protobuf()
    model = protobuf.ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError, whose module is not typed
        raise TokenizerError(f"{file}: not a sentencepiece model: {error}") from error
    return Pieces(
        tuple(p.piece for p in model.pieces),
        tuple(p.score for p in model.pieces),
        tuple(PieceType(p.type) for p in model.pieces),
    )


def _from_json(file: Path) -> Pieces:
    """Merges come in the order of their results' scores, best first, so results in that order get -1, -2, ...

    Any scores of that order give the same merges. Single characters, which nothing is merged to, come last.
    """
    raw = read_object(file, TokenizerError)
    try:
        vocabulary: dict[str, int] = raw["model"]["vocab"]
        added: list[dict[str, Any]] = raw.get("added_tokens") or []
        ids = {**vocabulary, **{token["content"]: token["id"] for token in added}}
        results = dict.fromkeys(_results(raw["model"]["merges"]))
        by_id = {token_id: text for text, token_id in ids.items()}
        texts = [by_id[i] for i in range(len(by_id))]
        unknown = raw["model"].get("unk_token")
        apart = {token["id"] for token in added if _is_taken_whole(token)}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{file}: not a tokenizer.json with byte-pair merges: {error!r}") from error
    _restore_byte_names(texts, ids)
    kinds = [_kind(text, i in apart, text == unknown) for i, text in enumerate(texts)]
    rank = {text: -1.0 - i for i, text in enumerate(results)}
    scores: list[float] = []
    for text, kind in zip(texts, kinds, strict=True):
        score = 0.0
        if kind is PieceType.NORMAL:
            score = rank.setdefault(text, -1.0 - len(rank))
        scores.append(score)
    return Pieces(tuple(texts), tuple(scores), tuple(kinds))


def _results(merges: Iterable[str | Sequence[str]]) -> Iterable[str]:
    for merge in merges:
        yield "".join(merge.split(" ") if isinstance(merge, str) else merge)


def _restore_byte_names(texts: list[str], ids: Mapping[str, int]) -> None:
    """transformers calls the byte token <0x09> of Gemma a tab."""
    for name, character in _BYTES.items():
        if name not in ids and character in ids:
            texts[ids[character]] = name


def _is_taken_whole(added: Mapping[str, Any]) -> bool:
    """Whether the tokenizers library looks for an added token in the text before it merges anything.

    Gemma's runs of spaces are declared with ``▁``, but looked for before spaces become that: they come about
    by merges only, and 37 spaces as 16 and 21 instead of sentencepiece's 31 and 6.
    """
    return bool(added.get("normalized")) or _SPACE not in added["content"]


def _kind(text: str, taken_whole: bool, unknown: bool) -> PieceType:
    if unknown:
        return PieceType.UNKNOWN
    if text in _BYTES:
        return PieceType.BYTE
    return PieceType.USER_DEFINED if taken_whole else PieceType.NORMAL
