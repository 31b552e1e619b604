"""Cutting texts to a number of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cg.runtime.prompts.budget import encode_within, keep_end, keep_start, split_budget
from cg.runtime.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(Path(__file__).parents[3] / "runtime" / "demo")
TEXT = st.text(st.sampled_from("ab \n\t漢▁<|"), max_size=80)


def count(text: str) -> int:
    return len(TOKENIZER.encode(text))


@settings(deadline=None)
@given(TEXT, st.integers(-1, 60))
def test_encode_within_is_exact(text: str, limit: int) -> None:
    ids = TOKENIZER.encode(text)
    assert encode_within(TOKENIZER, text, limit) == (ids if len(ids) <= limit else None)


@pytest.mark.parametrize("unit", ["x = 1\n", " ", "\n", "漢\n", "word "])
def test_encode_within_of_long_texts(unit: str) -> None:
    text = unit * (60_000 // len(unit))
    ids = TOKENIZER.encode(text)
    assert encode_within(TOKENIZER, text, len(ids)) == ids
    assert encode_within(TOKENIZER, text, len(ids) - 1) is None
    assert encode_within(TOKENIZER, text, 10) is None


@settings(deadline=None, max_examples=200)
@given(TEXT, st.integers(0, 40))
def test_keep_end(text: str, limit: int) -> None:
    kept = keep_end(TOKENIZER, text, limit)
    assert kept.ids == TOKENIZER.encode(kept.text)
    assert len(kept.ids) <= limit
    assert text.endswith(kept.text)
    last_line = text[text.rfind("\n") + 1 :]
    if count(last_line) > limit:
        assert len(kept.text) < len(last_line)
    else:
        assert len(kept.text) >= len(last_line)
        cut = text[: len(text) - len(kept.text)]
        assert not cut or cut.endswith("\n")
    if count(text) <= limit:
        assert kept.text == text


@settings(deadline=None, max_examples=200)
@given(TEXT, st.integers(0, 40))
def test_keep_start(text: str, limit: int) -> None:
    kept = keep_start(TOKENIZER, text, limit)
    assert kept.ids == TOKENIZER.encode(kept.text)
    assert len(kept.ids) <= limit
    assert text.startswith(kept.text)
    first_line = text[: text.find("\n") + 1] or text
    if count(first_line) > limit:
        assert len(kept.text) < len(first_line)
    else:
        assert len(kept.text) >= len(first_line)
        assert kept.text == text or kept.text.endswith("\n")
    if count(text) <= limit:
        assert kept.text == text


@pytest.mark.parametrize("limit", [1, 7, 100, 999])
@pytest.mark.parametrize("unit", ["x = 1\n", "\n", "ab\n\n\n", "    \n", "漢 = 2  # é\n"])
def test_as_many_lines_as_fit(unit: str, limit: int) -> None:
    text = unit * 40_000
    for keep in (keep_end, keep_start):
        kept = keep(TOKENIZER, text, limit).text
        longer = len(kept) + unit.find("\n") + 1
        assert count(kept) <= limit
        assert count(text[-longer:] if keep is keep_end else text[:longer]) > limit - 1


@pytest.mark.parametrize(
    ("room", "prefix", "suffix", "prefix_line", "suffix_line", "expected"),
    [
        (100, 101, 101, 5, 5, (75, 25)),  # a quarter for the suffix
        (100, 30, 101, 5, 5, (30, 70)),  # what the prefix leaves
        (100, 101, 10, 5, 5, (90, 10)),  # what the suffix leaves
        (100, 90, 90, 5, 40, (60, 40)),  # the cursor's line in the suffix
        (100, 101, 101, 90, 5, (90, 10)),  # the cursor's line in the prefix
        (100, 101, 101, 80, 60, (75, 25)),  # both parts of it together do not fit
        (100, 101, 101, 101, 1, (75, 25)),
        (0, 1, 1, 1, 1, (0, 0)),
    ],
)
def test_split_budget(
    room: int, prefix: int, suffix: int, prefix_line: int, suffix_line: int, expected: tuple[int, int]
) -> None:
    assert split_budget(room, prefix, suffix, prefix_line, suffix_line) == expected
