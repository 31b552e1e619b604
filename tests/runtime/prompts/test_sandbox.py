"""Templates that misbehave, and what chat templates expect of their environment."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cg.runtime.errors import PromptError, TokenizerError
from cg.runtime.prompts.sandbox import SandboxedTemplate


def render(source: str, **variables: Any) -> str:
    return SandboxedTemplate(source, "here").render(variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("{% for x in xs %}\n{{ x }}\n{% endfor %}\n", "1\n2\n"),  # trim_blocks
        ("  {% if xs %}\na\n  {% endif %}\nb", "a\nb"),  # lstrip_blocks
        ("{% for x in xs %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{{ {'b': 'é<', 'a': xs} | tojson }}", '{"b": "é<", "a": [1, 2]}'),
        ("{{ xs | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
        (
            "{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{{ dict(a=1) }}", "{'a': 1}"),
        ("{{ 'a' ~ 1 ~ none }}", "a1None"),
        ("{{ 'a' + 'b' * 3 }}", "abbb"),
        ("{{ [1] + [2] }}", "[1, 2]"),
        ("{{ 7 % 4 }} {{ 2 ** 10 }}", "3 1024"),
        ("{{ 'a-b'.replace('-', '+') }}{{ 'a-b' | replace('-', '+') }}", "a+ba+b"),
        ("{{ 'aaa'.replace('a', 'b', 1) }}{{ 'aaa' | replace('a', 'b', 1) }}", "baabaa"),
        ("{{ xs | map('string') | join(',') }}", "1,2"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m(2) }}", "<1><2>"),
        ("{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}", "[x]"),
        ("{% for x in xs recursive %}{{ x }}{% endfor %}", "12"),
        ("{{ ' x '.strip() | upper }}", "X"),
    ],
)
def test_what_templates_use(source: str, expected: str) -> None:
    assert render(source, xs=[1, 2]) == expected


def test_the_time() -> None:
    assert re.fullmatch(r"\d{4}-\d\d", render("{{ strftime_now('%Y-%m') }}"))


def test_refusal_is_the_users_error() -> None:
    with pytest.raises(PromptError, match="refuses this conversation: no system role"):
        render("{{ raise_exception('no system role') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{",
        "{% for x in %}{% endfor %}",
        "{{ 'x' | nosuchfilter }}",
        "{{ " + "(" * 5000,
        "{% bad %}",
    ],
)
def test_malformed(source: str) -> None:
    with pytest.raises(TokenizerError, match=r"here.*malformed"):
        SandboxedTemplate(source, "here")


def test_a_malformed_line_is_named() -> None:
    with pytest.raises(TokenizerError, match="here, line 3: "):
        SandboxedTemplate("a\nb\n{% if %}", "here")


GROWING = "{% set ns = namespace(a='xx') %}{% for i in range(100) %}CHANGE{% endfor %}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ nothing.at.all }}", "undefined"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ none + 1 }}", "unsupported"),
        ("{% include 'x' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception.__globals__.x }}", "unsafe"),
        ("{{ strftime_now.__code__.x }}", "unsafe"),
        ("{{ xs.append(1) }}", "unsafe"),
        ("{% set ns = namespace() %}{% set ns.__x = 1 %}", "may not have"),
        ("{{ namespace(__x=1).a }}", "may not have"),
        ("{{ lipsum() }}", "undefined"),
        ("{{ range(1000000000) }}", "Range too big"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"),
        ("{% for a in range(9999) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}", "steps"),
        ("{% set s = 'x' * 9999 %}" + "{% for a in s %}" * 8 + "{% endfor %}" * 8, "steps"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "characters"),
        ("{{ 'x' * 1000000000 }}", "characters"),
        ("{{ [0] * 1000000000 }}", "characters"),
        ("{{ 9 ** 99999 }}", "huge numbers"),
        ("{{ 9 ** 99 ** 99 }}", "huge numbers"),
        ("{{ '%1000000000d' % 1 }}", "formats"),
        ("{{ '{:1000000000}'.format(1) }}", "unsafe"),
        ("{{ 'x'.center(1000000000) }}", "unsafe"),
        ("{{ [1] | tojson(indent=1000000000) }}", "indents"),
        (GROWING.replace("CHANGE", "{% set ns.a = ns.a ~ ns.a %}"), "characters"),
        (GROWING.replace("CHANGE", "{% set ns.a = ns.a + ns.a %}"), "characters"),
        (GROWING.replace("CHANGE", "{% set ns.a = [ns.a, ns.a] | join %}"), "characters"),
        (GROWING.replace("CHANGE", "{% set ns.a = ''.join([ns.a, ns.a]) %}"), "characters"),
        (GROWING.replace("CHANGE", "{% set ns.a = ns.a | replace('x', ns.a) %}"), "characters"),
        (GROWING.replace("CHANGE", "{% set ns.a = ns.a.replace('x', ns.a) %}"), "characters"),
        (GROWING.replace("CHANGE", "{% set ns.a %}{{ ns.a }}{{ ns.a }}{% endset %}"), "characters"),
    ],
)
def test_forbidden_or_endless(source: str, reason: str) -> None:
    with pytest.raises(TokenizerError, match="here: the chat template failed") as caught:
        render(source, xs=[1])
    assert reason in caught.value.message


@pytest.mark.parametrize("name", ["center", "format", "indent", "wordwrap"])
def test_filters_that_pad_are_not_there(name: str) -> None:
    with pytest.raises(TokenizerError, match="malformed"):
        render("{{ 'x' | " + name + "(1000000000) }}")


def test_a_template_can_be_rendered_again_after_a_failure() -> None:
    source = "{% for x in range(n) %}{% for y in range(n) %}a{% endfor %}{% endfor %}"
    template = SandboxedTemplate(source, "here")
    with pytest.raises(TokenizerError, match="steps"):
        template.render({"n": 400})
    for _ in range(2):
        assert len(template.render({"n": 250})) == 62_500


def test_a_template_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 3))
    monkeypatch.setattr("cg.runtime.prompts.sandbox.time.monotonic", lambda: next(now))
    template = SandboxedTemplate("{% for x in range(n) %}a{% endfor %}", "here")
    assert template.render({"n": 3}) == "aaa"
    with pytest.raises(TokenizerError, match="seconds"):
        template.render({"n": 4})
