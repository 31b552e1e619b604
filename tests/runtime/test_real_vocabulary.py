"""CodeGemma's own vocabulary of 256,000 entries: ``pytest -m weights``, the file in CG_TEST_TOKENIZER."""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from cg.runtime.compact_vocabulary import CompactVocabulary, open_vocabulary
from cg.runtime.vocabulary import JsonVocabulary, Vocabulary

pytestmark = [pytest.mark.weights, pytest.mark.timeout(1800)]
FILE = os.environ.get("CG_TEST_TOKENIZER")  # now: a test's own environment has no such variables


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vocabulary, Vocabulary]:
    """The compact vocabulary, from its file, and the library's."""
    assert FILE, "set CG_TEST_TOKENIZER to the tokenizer.json of a CodeGemma checkpoint"
    folder = tmp_path_factory.mktemp("kept")
    open_vocabulary(Path(FILE), folder)
    compact, note = open_vocabulary(Path(FILE), folder)
    assert isinstance(compact, CompactVocabulary), note
    return compact, JsonVocabulary(Path(FILE))


def sources() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if "site-packages" not in file.parts:
            yield file.read_text("utf-8", errors="replace")


def noise(names: list[str]) -> Iterator[str]:
    """Characters of low planes and of all, pieces of the vocabulary, and its first, special ones."""
    rng = random.Random(1)
    for limit in (0x80, 0x250, 0x3000, 0x10000, 0x110000):
        for _ in range(1000):
            points = (rng.randrange(limit) for _ in range(rng.randrange(200)))
            yield "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    for some in (names, [*names[:473], "\n", " ", "  ", "\t", "a", "▁"]):
        for _ in range(3000):
            yield "".join(rng.choice(some).replace("▁", " ") for _ in range(rng.randrange(60)))


def test_sources_have_the_library_s_ids(pair: tuple[Vocabulary, Vocabulary]) -> None:
    compact, library = pair
    count = 0
    for text in sources():
        assert compact.encode(text) == library.encode(text), text[:200]
        count += 1
    assert count > 1000


def test_noise_has_the_library_s_ids(pair: tuple[Vocabulary, Vocabulary]) -> None:
    compact, library = pair
    names = [compact.token(i) or "" for i in range(compact.size)]
    for text in noise(names):
        assert compact.encode(text) == library.encode(text), ascii(text)


def test_names_are_the_library_s(pair: tuple[Vocabulary, Vocabulary]) -> None:
    compact, library = pair
    assert compact.size == library.size == 256_000
    assert compact.special == library.special
    for token_id in range(library.size):
        name = library.token(token_id)
        assert name is not None
        assert (compact.token(token_id), compact.token_id(name)) == (name, library.token_id(name))


def test_a_megabyte_in_one_line(pair: tuple[Vocabulary, Vocabulary]) -> None:
    compact, library = pair
    text = "".join(sources()).replace("\n", " ")[:1_000_000]
    assert compact.encode(text) == library.encode(text)
