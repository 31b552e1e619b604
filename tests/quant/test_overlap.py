"""Passages that two texts have in common, told from a sketch of one."""

from __future__ import annotations

import base64
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cg.quant.calibration import read_calibration
from cg.quant.overlap import WINDOW, Overlap, overlap, refuse_overlap, sketch
from cg.runtime.errors import CalibrationOverlapError, InvalidHeaderError, UsageError

DATA = Path(__file__).parents[2] / "quant" / "data"
HELD_OUT = sorted(DATA.glob("held_out_*.txt"))
CALIBRATION = read_calibration().text
SKETCH = sketch(CALIBRATION)
FUNCTION = "".join(CALIBRATION[CALIBRATION.index("    def set_level(self") :].splitlines(True)[:20])
CERTAIN = 36
VOCABULARY = [f"word{number}" for number in range(400)]


def words(count: int, seed: int) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=count)


def find(text: str, other: str) -> Overlap:
    return overlap(sketch(text), other)


@pytest.mark.parametrize("file", HELD_OUT, ids=lambda file: file.stem)
def test_held_out_texts_do_not_overlap_with_the_calibration_text(file: Path) -> None:
    text = file.read_text("utf-8")
    found = overlap(SKETCH, text)
    assert (found.matching, found.share, found.line, found.example) == (0, 0.0, 0, "")
    assert found.windows > 5000
    assert found.certain == CERTAIN
    refuse_overlap(SKETCH, text, file.name)


def test_there_are_held_out_texts() -> None:
    languages = {file.stem.removeprefix("held_out_") for file in HELD_OUT}
    assert languages >= {"python", "javascript", "java", "cpp", "go", "rust"}


@pytest.mark.parametrize("file", HELD_OUT, ids=lambda file: file.stem)
def test_a_pasted_function_is_found(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()
    function = FUNCTION.splitlines()
    middle = len(lines) // 2
    text = "\n".join([*lines[:middle], *function, *lines[middle:]])
    found = overlap(SKETCH, text)
    assert found.matching
    assert middle - CERTAIN < found.line <= middle + 20
    assert found.example in {line.strip() for line in function}
    with pytest.raises(CalibrationOverlapError, match=rf"the text repeats .* in line {found.line}") as caught:
        refuse_overlap(SKETCH, text, "the text")
    assert found.example in caught.value.message
    assert caught.value.hint
    assert isinstance(caught.value, UsageError)


def test_most_passages_of_20_lines_are_found_and_all_with_enough_words() -> None:
    """What docs/explanation/quantization.md says, on every twentieth passage of the bundled text."""
    lines = CALIBRATION.splitlines()
    passages = ["\n".join(lines[start : start + 20]) for start in range(0, len(lines) - 20, 20)]
    found = [bool(overlap(SKETCH, passage).matching) for passage in passages]
    assert sum(found) / len(found) > 0.97


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2000 - CERTAIN), st.integers(0, 200))
def test_a_passage_of_so_many_words_is_found_for_certain(seed: int, start: int, around: int) -> None:
    text = words(2000, seed)
    other = [f"other{number}" for number in range(around)]
    found = find(" ".join(text), " ".join([*other, *text[start : start + CERTAIN], *other]))
    assert found.certain == CERTAIN
    assert found.matching


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2000 - CERTAIN))
def test_fewer_words_than_a_window_are_never_found(seed: int, start: int) -> None:
    text = words(2000, seed)
    passage = text[start : start + WINDOW - 1]
    assert not find(" ".join(text), " ".join([*passage, "another", *passage[::-1]])).matching


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.sampled_from([" ", "\n", "\t", "(", ", ", " + 17.5 ", '"'])))
def test_layout_case_and_punctuation_make_no_difference(seed: int, between: list[str]) -> None:
    rng = random.Random(seed)
    text = words(300, seed)
    laid_out = "".join(rng.choice([word, word.upper()]) + rng.choice(["  \n", *between]) for word in text)
    assert sketch(laid_out) == sketch(" ".join(text))


def test_indentation_and_line_breaks_make_no_difference() -> None:
    indented = re.sub("^ *", lambda found: "\t" * (len(found[0]) // 4 + 2), FUNCTION, flags=re.MULTILINE)
    wrapped = re.sub(r"([(,])\s*", r"\1\n        ", FUNCTION)
    whole = overlap(SKETCH, FUNCTION)
    assert whole.matching > 5
    for other in (indented, wrapped, FUNCTION.replace("\n", "\r\n")):
        assert overlap(SKETCH, other).matching == whole.matching


NOTICE = """\
# Copyright 2020 Some Company
#
# All rights reserved. This file and all others of this project may be read by anyone who is able to read,
# copied by nobody, and changed at night alone, as the founders of the company decided at their first meeting
# in the garden behind the old house by the river.
"""
IMPORTS = """\
from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar
"""
SHARED = {
    "comment": NOTICE,
    "block": "/*\n" + NOTICE.replace("#", "  ") + "*/\n",
    "python": IMPORTS,
    "go": "package main\n\nimport (\n" + "".join(f'\t"{name}"\n' for name in VOCABULARY[:30]) + ")\n",
    "node": "".join(f"const {name} = require('{name}');\n" for name in VOCABULARY[:30]),
    "rust": "pub use std::{\n    " + ", ".join(VOCABULARY[:30]) + ",\n};\n",
    "java": "".join(f"import static com.company.{name};\n" for name in VOCABULARY[:30]),
    "c": "".join(f"# include <{name}.h>\n" for name in VOCABULARY[:30]),
    "c#": "".join(f"using Company.{name};\n" for name in VOCABULARY[:30]),
    "table": ", ".join(f"{{{number}, 0x{number:x}, 0.5}}" for number in range(500)) + "\n",
    "repetition": "if err != nil {\n\treturn err\n}\n" * 30,
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_unrelated_files_share_is_no_overlap(kind: str) -> None:
    one, other = (SHARED[kind] + "\n\n" + " ".join(words(500, seed)) for seed in (1, 2))
    found = find(one, other)
    assert found.matching == 0
    assert found.windows > 400


def test_code_beside_a_notice_still_counts() -> None:
    code = " ".join(words(CERTAIN, 5))
    text = f"{NOTICE}{code}\n{IMPORTS}"
    assert find(text, code).matching
    assert find(code, text).line == 6


def test_any_length_gives_a_sketch_that_fits_a_header() -> None:
    empty = find("", "some text")
    assert (empty.windows, empty.matching, empty.share) == (0, 0, 0.0)
    assert find(" ".join(VOCABULARY[:WINDOW]), " ".join(VOCABULARY[:WINDOW])).matching == 1
    rng = random.Random(3)
    text = " ".join(f"w{rng.randrange(10**6)}" for _ in range(120_000))
    long = sketch(text)
    for made in (SKETCH, long):
        assert len(made) < 33_000
        assert json.dumps(made) == f'"{made}"'
    middle = text[len(text) // 2 :].split(" ")
    found = overlap(long, " ".join(middle[1 : 1 + overlap(long, "").certain]))
    assert CERTAIN < found.certain < 250
    assert found.matching


def test_counts_and_share() -> None:
    text = " ".join(words(1000, 8))
    found = find(text, text)
    assert found.windows == 1000 - WINDOW + 1
    assert found.line == 1
    assert 0.06 < found.share < 0.18  # of 17 windows one, or two that overlap
    assert found.share == found.matching / found.windows


def test_sketches_are_reproducible() -> None:
    assert sketch("\n".join(VOCABULARY[:60])) == "1:17:A4N5THWTJP4JCtfnJ+RWcZ5rP3E/KUov"


@pytest.mark.parametrize(
    "malformed",
    ["", "1", "1:17", "2:17:", "1:0:", "1:-4:", "1:x:", "1:17:AAAA", "1:17:?", "1:17:é", "1:17::", "x" * 100],
)
def test_malformed_sketches(malformed: str) -> None:
    with pytest.raises(InvalidHeaderError, match="sketch of the calibration text is malformed"):
        overlap(malformed, "text")


def test_hashes_are_ordered_big_endian_numbers() -> None:
    version, thinning, data = SKETCH.split(":")
    raw = base64.b64decode(data)
    numbers = [int.from_bytes(raw[place : place + 6], "big") for place in range(0, len(raw), 6)]
    assert (version, thinning) == ("1", "17")
    assert numbers == sorted(set(numbers))
