"""Rendering a chat template that somebody else wrote.

A template is a program in a downloaded file. It runs in jinja2's immutable sandbox, and what the sandbox
does not limit is limited here: loop iterations, lengths of intermediate values and of the result.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from cg.runtime.errors import PromptError, TokenizerError

__all__ = ["SandboxedTemplate"]

_MAX_STEPS = 100_000
_MAX_SECONDS = 10.0  # an ordinary conversation takes a thousandth of it
_MAX_CHARS = 8 << 20  # of an intermediate value and of the result: a hundred full contexts
_MAX_BITS = 4096  # of an integer
_GENERATORS = ("cycler", "joiner", "lipsum", "dict", "namespace")
_PADDING_FILTERS = ("center", "format", "indent", "wordwrap")
_PADDING_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"})


class SandboxedTemplate:
    """A compiled template.

    Raises:
        TokenizerError: the source is not a jinja2 template.
    """

    def __init__(self, source: str, origin: str) -> None:
        """``origin`` names the template in error messages."""
        self.source = source
        self._origin = origin
        self._lock = threading.Lock()  # the environment counts steps
        self._environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        try:
            tree = self._environment.parse(source)
            _Instrument(self._environment).visit(tree)
            self._template = self._environment.from_string(tree)
        except (TemplateSyntaxError, RecursionError) as error:
            line = getattr(error, "lineno", None)
            where = f", line {line}" if line else ""
            raise TokenizerError(f"{origin}{where}: the chat template is malformed: {error}") from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text that the template makes of ``variables``.

        Raises:
            PromptError: the template itself refuses the conversation (``raise_exception``).
            TokenizerError: the template fails, does something forbidden or does not come to an end.
        """
        parts: list[str] = []
        size = 0
        with self._lock:
            self._environment.start()
            try:
                for part in self._template.generate(**variables):
                    parts.append(part)
                    size += len(part)
                    _check_length(size)
            except _RefusedError as error:
                raise PromptError(f"the chat template refuses this conversation: {error}") from error
            except Exception as error:  # a template can raise whatever Python can
                reason = str(error) or type(error).__name__
                raise TokenizerError(f"{self._origin}: the chat template failed: {reason}") from error
        return "".join(parts)


class _RefusedError(TemplateError):
    """Raised by a template on purpose."""


class _TooMuchError(SecurityError):
    """A template that runs or grows without bound."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with the filters and globals that transformers gives to chat templates."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in _PADDING_FILTERS:
            del self.filters[name]
        for name in _GENERATORS:
            del self.globals[name]
        self.filters |= {"tojson": _to_json, "replace": _replace}
        self.filters = {name: _bounded(function) for name, function in self.filters.items()}
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _now
        self.globals["namespace"] = _PublicNamespace
        self.globals["dict"] = _make_dict
        self.concat = _concat  # type: ignore[method-assign] # jinja2's hook for the output of macros and blocks
        self.start()

    def start(self) -> None:
        """Count from here."""
        self._steps = 0
        self._end = time.monotonic() + _MAX_SECONDS

    def tick(self) -> bool:
        """Called by every loop iteration and macro call of the instrumented template; true."""
        self._steps += 1
        if self._steps > _MAX_STEPS or time.monotonic() > self._end:
            raise _TooMuchError(f"it runs for more than {_MAX_STEPS} steps or {_MAX_SECONDS:g} seconds")
        return True

    def tilde(self, *values: Any) -> str:
        """The operator ``~``."""
        return _concat([str(value) for value in values])

    def call(self, context: Any, function: Any, /, *values: Any, **named: Any) -> Any:
        """A call that the template makes; methods of strings may not make huge ones."""
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and function.__name__ == "replace":
            _check_replace(owner, *values[:2])
        result = super().call(context, function, *values, **named)
        _check_length(_size(result) if isinstance(result, str | list | tuple) else 0)
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read an attribute."""
        if isinstance(obj, str) and attr in _PADDING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """The sandbox's own ``str.format``, which would pad without limit: not offered."""

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result could be far larger than its operands."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(right, 1) if operator == "**" else 0
            if max(bits, left.bit_length(), right.bit_length()) > _MAX_BITS:
                raise _TooMuchError("it computes with huge numbers")
        elif operator == "%" and isinstance(left, str):
            raise _TooMuchError("it formats with %")
        elif operator == "*":
            _check_length(_size(left) * _size(right))
        elif operator == "+":
            _check_length(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)


class _Instrument(NodeTransformer):
    """Adds a step count to loops and macros, and a length check to ``~``."""

    def __init__(self, environment: _Environment) -> None:
        self._environment = environment

    def _call(self, name: str, arguments: list[nodes.Expr], near: nodes.Node) -> nodes.Call:
        call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
        call.set_environment(self._environment)
        call.set_lineno(near.lineno)
        return call

    def _count(self, node: Any) -> Any:
        self.generic_visit(node)
        step = nodes.ExprStmt(self._call("tick", [], node), lineno=node.lineno, environment=self._environment)
        node.body.insert(0, step)
        return node

    def visit_For(self, node: nodes.For) -> Any:  # noqa: N802 - jinja2's naming, here and below
        if node.test is not None:
            node.test = nodes.And(self._call("tick", [], node), node.test, lineno=node.lineno)
        return self._count(node)

    def visit_Macro(self, node: nodes.Macro) -> Any:  # noqa: N802
        return self._count(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> Any:  # noqa: N802
        return self._count(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        return self._call("tilde", node.nodes, node)


class _PublicNamespace(Namespace):
    """``namespace()`` without attributes that begin with an underscore."""

    def __init__(self, /, *values: Any, **named: Any) -> None:
        super().__init__()
        for name, value in dict(*values, **named).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace may not have the attribute {name}")
        super().__setitem__(name, value)


def _make_dict(**items: Any) -> dict[str, Any]:
    return dict(items)


def _refuse(message: object) -> None:
    raise _RefusedError(str(message))


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and indent > 16:
        raise _TooMuchError("it indents JSON by more than 16 columns")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _replace(text: object, old: str, new: str, count: int = -1) -> str:
    _check_replace(str(text), old, new)
    return str(text).replace(old, new, count)


def _check_replace(text: str, old: str, new: str) -> None:
    _check_length(len(text) + text.count(old) * len(new))


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses to return a huge text."""

    @functools.wraps(function)  # keeps the attributes by which jinja2 knows what to pass
    def checked(*values: Any, **named: Any) -> Any:
        result = function(*values, **named)
        _check_length(len(result) if isinstance(result, str) else 0)
        return result

    return checked


def _size(value: Any) -> int:
    return (
        len(value) if isinstance(value, str | list | tuple) else abs(value) if isinstance(value, int) else 1
    )


def _concat(parts: Iterable[str]) -> str:
    text = list(parts)
    _check_length(sum(map(len, text)))
    return "".join(text)


def _check_length(chars: int) -> None:
    if chars > _MAX_CHARS:
        raise _TooMuchError(f"it makes more than {_MAX_CHARS} characters")
