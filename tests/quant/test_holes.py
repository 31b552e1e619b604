"""Holes, and the prompts that are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cg.quant.evaluation_text import read_held_out
from cg.quant.holes import Hole, cut_holes
from cg.quant.passages import cut_prompts, middle_passages
from cg.runtime.prompts.fim import build_fim
from cg.runtime.tokenizer import Tokenizer

TEXT = read_held_out().text


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Tokenizer:
    return Tokenizer.load(demo)


def test_a_hole_is_a_piece_of_the_text() -> None:
    holes = cut_holes(TEXT, 50)
    assert len(holes) == 50
    for n, hole in enumerate(holes):
        assert hole.prefix + hole.middle + hole.suffix == TEXT
        assert hole.suffix.startswith("\n")  # up to the end of a line
        line = hole.prefix.rpartition("\n")[2]
        assert hole.middle[0].strip() or not n % 2
        if n % 2:
            assert not line.strip()
        else:
            assert "\n" not in hole.middle
        assert 6 <= len(hole.middle.strip()) <= 160
    assert any("\n" in hole.middle for hole in holes)


def test_holes_are_the_same_every_time_and_spread_over_the_text() -> None:
    holes = cut_holes(TEXT, 20)
    assert holes == cut_holes(TEXT, 20)
    assert holes != cut_holes(TEXT, 20, seed=1)
    places = [len(hole.prefix) for hole in holes]
    assert places == sorted(places)
    assert places[0] < len(TEXT) / 10
    assert places[-1] > 0.9 * len(TEXT)
    # What they were when this was written: other holes would make figures incomparable.
    assert [hole.middle for hole in cut_holes(TEXT, 8)[2::2]] == [
        "iterow(header)",
        "ol__(self):",
        "order = n",
    ]


@pytest.mark.parametrize(("text", "count"), [("", 0), ("x\n\n  y\n", 0), ("value = 1\n", 1)])
def test_texts_with_few_lines(text: str, count: int) -> None:
    assert len(cut_holes(text, 5)) == count


def test_prompts_are_those_of_complete(tokenizer: Tokenizer) -> None:
    holes = cut_holes(TEXT, 12)
    prompts = cut_prompts(tokenizer, holes, 256, 24)
    assert len(prompts) == len(holes)
    for hole, prompt, passage in zip(holes, prompts, middle_passages(prompts), strict=True):
        middle = tokenizer.encode(hole.middle)
        budget = 256 - max(24, len(middle))
        expected = build_fim(tokenizer, hole.prefix, hole.suffix, mode="psm", budget=budget)
        assert list(prompt.ids) == expected.ids
        assert passage.ids.tolist() == [*expected.ids, *middle]
        assert passage.ids[passage.first] == tokenizer.control_id("<|fim_middle|>")
        assert passage.targets.tolist() == middle
        assert len(passage) <= 256
        assert prompt.middle == hole.middle


def test_middles_too_long_for_the_context_are_left_out(tokenizer: Tokenizer) -> None:
    holes = [Hole("a = ", "ö" * 100, "\n"), Hole("a = ", "b", "\n")]
    (prompt,) = cut_prompts(tokenizer, holes, 64, 24)
    assert prompt.middle == "b"
    assert prompt.before == "a = "
