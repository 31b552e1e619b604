"""Conversations as token ids, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from cg.runtime.errors import PromptError, TokenizerError
from cg.runtime.tokenizer import Tokenizer
from cg.runtime.vocabulary import read_json

if TYPE_CHECKING:
    from cg.runtime.prompts.sandbox import SandboxedTemplate

__all__ = ["GEMMA_TEMPLATE", "ChatTemplate", "Message", "Role"]

Role = Literal["user", "assistant", "model"]

GEMMA_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
{{- '<start_of_turn>' ~ ('user' if message.role == 'user' else 'model') ~ '\\n' }}
{{- message.content | trim }}
{{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<start_of_turn>model\\n' }}
{%- endif %}"""
"""Gemma's turns, for a base model that somebody wants to talk to nevertheless."""

_PRIVATE_USE = range(0xE000, 0xF900)
_ROLES = {"user": "user", "assistant": "assistant", "model": "assistant"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; ``assistant`` and ``model`` mean the same."""

    role: Role
    content: str


class ChatTemplate:
    """A chat template with the tokenizer that it writes for."""

    def __init__(self, source: str | None, tokenizer: Tokenizer, *, origin: str = "chat template") -> None:
        """``source`` is jinja2 text, or None for a model without template; ``origin`` names it in errors."""
        self._tokenizer = tokenizer
        self._source = source
        self._origin = origin

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> Self:
        """The template of a checkpoint: ``chat_template.jinja``, or the one in ``tokenizer_config.json``.

        Raises:
            TokenizerError: a malformed file. The template itself is compiled when it is first used.
        """
        file = folder / "chat_template.jinja"
        if file.is_file():
            try:
                return cls(file.read_text(encoding="utf-8"), tokenizer, origin=str(file))
            except (OSError, UnicodeDecodeError) as error:
                raise TokenizerError(f"{file}: cannot be read: {error}") from error
        file = folder / "tokenizer_config.json"
        return cls(_named_template(read_json(file).get("chat_template"), file), tokenizer, origin=str(file))

    @property
    def source(self) -> str | None:
        """The template as jinja2 text; None for a model without one."""
        return self._source

    @property
    def has_template(self) -> bool:
        """Whether the model was made for conversations."""
        return self._source is not None

    @cached_property
    def _template(self) -> SandboxedTemplate:
        from cg.runtime.prompts.sandbox import SandboxedTemplate  # jinja2: 50 ms that a completion saves

        if self._source is None:
            raise PromptError(
                "this model has no chat template: it is a base model, made for completing code",
                hint="use codegemma-7b-it to chat, or cg complete with this model",
            )
        return SandboxedTemplate(self._source, self._origin)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """The ids of a conversation, with exactly one BOS, at the start.

        Control tokens come from the template only; their spelling inside a message is text.

        Args:
            add_generation_prompt: open the model's turn at the end.

        Raises:
            PromptError: no template, roles that do not alternate, or the template refuses.
            TokenizerError: the template is malformed, fails or puts BOS elsewhere.
        """
        template = self._template
        _check_roles(messages)
        mark = _unused_character([template.source, *(message.content for message in messages)])
        tokenizer = self._tokenizer
        special = {
            "bos": tokenizer.bos_id,
            "eos": tokenizer.eos_id,
            "pad": tokenizer.pad_id,
            "unk": tokenizer.unk_id,
        }
        turns = [
            {"role": _ROLES[message.role], "content": _mark_literals(tokenizer, message.content, mark)}
            for message in messages
        ]
        text = template.render(
            {
                **{f"{name}_token": tokenizer.decode([i], show_control=True) for name, i in special.items()},
                "messages": turns,
                "add_generation_prompt": add_generation_prompt,
                "tools": None,
                "documents": None,
            }
        )
        return self._with_bos(self._encode(text, mark))

    def _encode(self, text: str, mark: str) -> list[int]:
        """Unmarked spellings of control tokens as ids, all else as text."""
        ids: list[int] = []
        start = 0
        for literal in self._tokenizer.find_control(text):
            if literal.start < start:
                continue
            ids += self._tokenizer.encode(text[start : literal.start].replace(mark, ""))
            ids.append(literal.token_id)
            start = literal.stop
        return ids + self._tokenizer.encode(text[start:].replace(mark, ""))

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self._tokenizer.bos_id
        if bos in ids[1:]:
            raise TokenizerError("the chat template puts the begin token into the conversation")
        return ids if ids[:1] == [bos] else [bos, *ids]


def _named_template(value: Any, file: Path) -> str | None:
    """A template, or the default one of a list of named templates."""
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default", value)
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"{file}: chat_template is neither a text nor a list with a default template")
    return value


def _check_roles(messages: Sequence[Message]) -> None:
    if not messages:
        raise PromptError("the conversation is empty")
    for index, message in enumerate(messages):
        role: str = message.role  # from a file or a request, whatever its type says
        if role not in _ROLES:
            raise PromptError(
                f"message {index + 1} has the role {role!r}; Gemma knows only user and assistant",
                hint="put instructions into the first user message" if role == "system" else None,
            )
        expected = "user" if index % 2 == 0 else "assistant"
        if _ROLES[role] != expected:
            raise PromptError(
                f"message {index + 1} is from the {_ROLES[role]}, expected the {expected}: "
                "roles alternate and the user begins"
            )


def _unused_character(texts: Iterable[str]) -> str:
    used = set().union(*texts)
    free = next((chr(code) for code in _PRIVATE_USE if chr(code) not in used), None)
    if free is None:
        raise PromptError("the conversation uses every character of Unicode's private use area")
    return free


def _mark_literals(tokenizer: Tokenizer, content: str, mark: str) -> str:
    """``content`` with a mark inside every control literal, also one that the template's text could complete.

    The marks vanish after rendering. They stand behind a literal's first character, where the template's
    trimming does not see them.
    """
    cuts = {literal.start + 1 for literal in tokenizer.find_control(content)}
    names = tokenizer.control_names()
    longest = max(map(len, names))
    end = len(content.rstrip())
    for start in range(max(0, end - longest), end):
        tail = content[start:end]
        if any(name.startswith(tail) for name in names):
            cuts.add(start + 1)
    start = len(content) - len(content.lstrip())
    for stop in range(start + 1, min(len(content), start + longest) + 1):
        head = content[start:stop]
        if any(name.endswith(head) for name in names):
            cuts.add(start)
    pieces = [content[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True)]
    return mark.join(pieces)
