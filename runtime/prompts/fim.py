"""Fill-in-the-middle prompts, built at the level of token ids.

==================  ======================================================================
``psm``             ``<bos>[path\\n]<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>``
``spm``             ``<bos>[path\\n]<|fim_suffix|>S<|fim_prefix|>P<|fim_middle|>``
``spm-prefix-first``  ``<bos>[path\\n]<|fim_prefix|><|fim_suffix|>S<|fim_middle|>P``
==================  ======================================================================

Context files stand between ``<bos>`` and the path line, each as
``path\\ntext<|file_separator|>``. Path lines, texts, prefix and suffix are encoded one by one, so a
token never reaches across a boundary. Sources: CodeGemma's model card and technical report (PSM, path
line, file separator); neither gives the order of SPM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

from cg.runtime.errors import ContextLengthError, PromptError, TokenizerError
from cg.runtime.prompts.budget import SUFFIX_SHARE, Piece, encode_within, keep_end, keep_start, split_budget
from cg.runtime.tokenizer import Tokenizer

__all__ = ["ContextFile", "FimMode", "FimPrompt", "FimTokens", "build_fim", "build_plain", "stop_ids"]

FimMode = Literal["psm", "spm", "spm-prefix-first"]

_END_OF_TURN = "<end_of_turn>"


@dataclass(frozen=True, slots=True)
class FimTokens:
    """The ids of the four control tokens of fill-in-the-middle."""

    prefix: int
    middle: int
    suffix: int
    separator: int

    @staticmethod
    def known_to(tokenizer: Tokenizer) -> bool:
        """Whether the vocabulary has all four."""
        return all(map(tokenizer.has_control, _NAMES.values()))

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Self:
        """Look the four up by their names.

        Raises:
            TokenizerError: one is missing, or two share an id.
        """
        ids: dict[str, int] = {}
        for field, name in _NAMES.items():
            if not tokenizer.has_control(name):
                raise TokenizerError(
                    f"the tokenizer has no {name} token, so this model cannot fill in the middle",
                    hint="use a CodeGemma model, or complete without a suffix",
                )
            ids[field] = tokenizer.control_id(name)
        if len(set(ids.values())) < len(ids):
            raise TokenizerError(f"two of the tokens for fill-in-the-middle share an id: {ids}")
        return cls(**ids)


_NAMES = {
    "prefix": "<|fim_prefix|>",
    "middle": "<|fim_middle|>",
    "suffix": "<|fim_suffix|>",
    "separator": "<|file_separator|>",
}


@dataclass(frozen=True, slots=True)
class ContextFile:
    """Another file of the same project, shown to the model before the edited one."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class FimPrompt:
    """Ids for the engine, and a sentence for everything that had to be left out."""

    ids: list[int]
    dropped: list[str]


def build_fim(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    *,
    mode: FimMode,
    path: str | None = None,
    context: Sequence[ContextFile] = (),
    budget: int,
) -> FimPrompt:
    """The prompt after which the model writes what belongs between ``prefix`` and ``suffix``.

    When ``budget`` tokens are too few, context files go first, from the first one on; then the prefix
    loses lines from its start and the suffix from its end; then the path line; at last the cursor's
    line is cut.

    Args:
        budget: tokens that the prompt may have, control tokens included.

    Raises:
        PromptError: an unknown mode, a path with a line break, text with lone surrogates.
        ContextLengthError: the budget does not even hold the control tokens.
        TokenizerError: the model has no tokens for fill-in-the-middle.
    """
    if mode not in get_args(FimMode):
        raise PromptError(f"unknown FIM order {mode!r}", hint=f"choose one of {', '.join(get_args(FimMode))}")
    tokens = FimTokens.from_tokenizer(tokenizer)
    fitted = _fit(tokenizer, prefix, suffix, path, context, budget - 4, tokens.separator)
    before, p, s = fitted.before, fitted.prefix.ids, fitted.suffix.ids
    head = [tokenizer.bos_id, *before]
    if mode == "psm":
        ids = [*head, tokens.prefix, *p, tokens.suffix, *s, tokens.middle]
    elif mode == "spm":
        ids = [*head, tokens.suffix, *s, tokens.prefix, *p, tokens.middle]
    else:
        ids = [*head, tokens.prefix, tokens.suffix, *s, tokens.middle, *p]
    return FimPrompt(ids, fitted.dropped)


def build_plain(
    tokenizer: Tokenizer,
    text: str,
    *,
    path: str | None = None,
    context: Sequence[ContextFile] = (),
    budget: int,
) -> FimPrompt:
    """The prompt after which the model simply goes on: ``<bos>[path\\n]text``, context files first.

    Cut to ``budget`` like :func:`build_fim`, with the same errors.
    """
    separator = FimTokens.from_tokenizer(tokenizer).separator if context else -1
    fitted = _fit(tokenizer, text, "", path, context, budget - 1, separator)
    return FimPrompt([tokenizer.bos_id, *fitted.before, *fitted.prefix.ids], fitted.dropped)


def stop_ids(tokenizer: Tokenizer, *, chat: bool = False, eos_ids: Iterable[int] = ()) -> frozenset[int]:
    """Ids after which nothing useful comes: EOS, the FIM tokens and, in a chat, the end of the turn.

    Args:
        eos_ids: what the model's configuration lists as end tokens, on top.
    """
    names = [*_NAMES.values(), _END_OF_TURN] if chat else list(_NAMES.values())
    present = (tokenizer.control_id(name) for name in names if tokenizer.has_control(name))
    return frozenset({tokenizer.eos_id, *eos_ids, *present})


@dataclass(frozen=True, slots=True)
class _Fitted:
    before: list[int]
    """Context files and path line."""
    prefix: Piece
    suffix: Piece
    dropped: list[str]


def _fit(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    path: str | None,
    context: Sequence[ContextFile],
    room: int,
    separator: int,
) -> _Fitted:
    """Bring everything but the control tokens and BOS into ``room`` tokens."""
    if room < 0:
        raise ContextLengthError(
            "the prompt's control tokens alone exceed the room for the prompt",
            hint="ask for fewer new tokens, or take a larger context",
        )
    line = _path_line(tokenizer, path)
    p = encode_within(tokenizer, prefix, room)
    s = encode_within(tokenizer, suffix, room) if p is not None else None
    if p is not None and s is not None and len(line) + len(p) + len(s) <= room:
        spare = room - len(line) - len(p) - len(s)
        files, dropped = _fit_context(tokenizer, context, spare, separator)
        return _Fitted([*files, *line], Piece(prefix, p), Piece(suffix, s), dropped)
    dropped = _left_out([file.path for file in context])
    p_line = _size(tokenizer, prefix[prefix.rfind("\n") + 1 :], room)
    s_line = _size(tokenizer, suffix[: suffix.find("\n") + 1] or suffix, room)
    if line and len(line) + p_line + s_line > room:
        line = []
        dropped.append("path line left out")
    room -= len(line)
    p_size = room + 1 if p is None else len(p)
    # Beside a long prefix the suffix can get no more than this, so that no more of it need be encoded.
    s_size = _size(tokenizer, suffix, room if p is not None else max(room // SUFFIX_SHARE, s_line))
    _, for_suffix = split_budget(room, p_size, s_size, p_line, s_line)
    kept_prefix = keep_end(tokenizer, prefix, room - for_suffix)
    kept_suffix = keep_start(tokenizer, suffix, room - len(kept_prefix.ids))
    cut = prefix[: len(prefix) - len(kept_prefix.text)]
    dropped += _cut_note("prefix", "start", prefix, cut, at_line=cut.endswith("\n"))
    cut = suffix[len(kept_suffix.text) :]
    dropped += _cut_note("suffix", "end", suffix, cut, at_line=kept_suffix.text.endswith("\n"))
    return _Fitted(line, kept_prefix, kept_suffix, dropped)


def _size(tokenizer: Tokenizer, text: str, limit: int) -> int:
    """The number of tokens of ``text``, or ``limit + 1`` if there are more than ``limit``."""
    ids = encode_within(tokenizer, text, limit)
    return limit + 1 if ids is None else len(ids)


def _path_line(tokenizer: Tokenizer, path: str | None) -> list[int]:
    if path is None:
        return []
    if not path or "\n" in path or "\r" in path:
        raise PromptError(f"path {path!r}: expected a name without line breaks")
    return tokenizer.encode(path + "\n")


def _fit_context(
    tokenizer: Tokenizer, context: Sequence[ContextFile], room: int, separator: int
) -> tuple[list[int], list[str]]:
    """The last context files that fit whole, and a note on the others."""
    kept: list[list[int]] = []
    for file in reversed(context):
        head = _path_line(tokenizer, file.path)
        text = encode_within(tokenizer, file.text, room - len(head) - 1)
        if text is None:
            break
        kept.append([*head, *text, separator])
        room -= len(kept[-1])
    missing = [file.path for file in context[: len(context) - len(kept)]]
    return [token for ids in reversed(kept) for token in ids], _left_out(missing)


def _left_out(paths: Sequence[str]) -> list[str]:
    return [f"context files left out: {', '.join(paths)}"] if paths else []


def _cut_note(name: str, where: str, text: str, cut: str, *, at_line: bool) -> list[str]:
    if not cut:
        return []
    if not at_line:
        return [f"{name} cut inside the cursor's line: {len(cut)} characters left out at its {where}"]
    lines, total = cut.count("\n"), text.count("\n")
    if not text.endswith("\n"):
        total += 1
        lines += name == "suffix"  # the last line, which has no line break
    return [f"{name} cut: {lines} of {total} lines left out at its {where}"]
