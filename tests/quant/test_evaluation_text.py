"""The evaluation text and its chunks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cg.quant.evaluation_text import HELD_OUT, MIN_CONTEXT, cut_chunks, read_held_out, read_text
from cg.runtime.errors import UsageError

BOS = 2


def test_bos_replaces_the_first_token_of_every_chunk_but_the_first() -> None:
    chunks = cut_chunks(range(100, 130), BOS, 10)
    # BOS goes before the text, so that the first chunk loses nothing and the others their first token.
    assert chunks.ids[0].tolist() == [BOS, *range(100, 109)]
    assert chunks.ids[1].tolist() == [BOS, *range(110, 119)]
    assert chunks.ids[2].tolist() == [BOS, *range(120, 129)]
    assert len(chunks) == 3
    assert chunks.ids.dtype == np.int32


@pytest.mark.parametrize(("context", "first", "scored"), [(512, 256, 255), (8, 4, 3), (9, 4, 4)])
def test_the_second_half_is_scored(context: int, first: int, scored: int) -> None:
    chunks = cut_chunks(range(100, 100 + context), BOS, context)
    assert (chunks.first, chunks.scored, chunks.context) == (first, scored, context)
    assert chunks.targets(0).tolist() == list(range(100 + first, 100 + context - 1))


def test_limit_takes_the_first_chunks() -> None:
    everything = cut_chunks(range(100, 200), BOS, 10)
    assert len(everything) == 10
    np.testing.assert_array_equal(cut_chunks(range(100, 200), BOS, 10, 4).ids, everything.ids[:4])
    assert len(cut_chunks(range(100, 200), BOS, 10, 99)) == 10


def test_exactly_one_chunk_and_one_token_too_few() -> None:
    assert len(cut_chunks(range(9), BOS, 10)) == 1
    with pytest.raises(UsageError, match="9 tokens, too few for one chunk of 10"):
        cut_chunks(range(8), BOS, 10)


@pytest.mark.parametrize(
    ("context", "limit"), [(MIN_CONTEXT - 1, None), (0, None), (-4, None), (8, 0), (8, -1)]
)
def test_impossible_settings(context: int, limit: int | None) -> None:
    with pytest.raises(UsageError):
        cut_chunks(range(100), BOS, context, limit)


def test_bundled_text_is_the_one_that_its_readme_describes() -> None:
    text = read_held_out()
    assert (text.kind, text.name) == ("python", "bundled held-out python")
    data = text.text.encode()
    readme = Path(__file__).parents[2].joinpath("quant", "data", "README.md").read_text("utf-8")
    assert hashlib.sha256(data).hexdigest() == text.sha256
    assert f"`{text.sha256}`, {len(data):,} bytes" in readme
    assert "\r" not in text.text
    assert "class NoOptionError(Error):" in text.text


@pytest.mark.parametrize("language", HELD_OUT)
def test_every_bundled_text_is_there(language: str) -> None:
    text = read_held_out(language)
    assert text.kind == language
    assert len(text.text) > 10_000


def test_a_language_without_a_bundled_text() -> None:
    with pytest.raises(UsageError, match="no bundled text in 'cobol'") as error:
        read_held_out("cobol")
    assert "python" in (error.value.hint or "")


def test_files_are_joined_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("x = 'é'\r\n".encode())
    (tmp_path / "b.py").write_bytes(b"y = 1")
    text = read_text([tmp_path / "a.py", tmp_path / "b.py", tmp_path / "a.py"])
    assert text.text == "x = 'é'\r\ny = 1x = 'é'\r\n"
    assert text.sha256 == hashlib.sha256(text.text.encode()).hexdigest()
    assert "a.py" in text.name


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes("é".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.py is not UTF-8: .* at byte 0"):
        read_text([tmp_path / "latin.py"])
    for missing in (tmp_path / "none.py", tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            read_text([missing])
