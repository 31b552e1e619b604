"""Where the cursor stands: every way to say it, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cg.cli.cursor import MARKER, Cursor, from_marker, from_position, from_texts, read_source
from cg.runtime.errors import UsageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "app.py"
    file.write_bytes("def f():\r\n    é = 1\n\nlast".encode())
    return file


@pytest.mark.parametrize(
    ("line", "column", "prefix"),
    [
        (1, 1, ""),
        (1, 9, "def f():"),
        (2, 5, "def f():\r\n    "),
        (2, 6, "def f():\r\n    é"),
        (3, 1, "def f():\r\n    é = 1\n"),
        (4, 5, "def f():\r\n    é = 1\n\nlast"),
    ],
)
def test_positions_count_characters_from_one(source: Path, line: int, column: int, prefix: str) -> None:
    cursor = from_position(source, line, column)
    assert cursor.prefix == prefix
    assert cursor.prefix + (cursor.suffix or "") == source.read_bytes().decode()
    assert cursor.path == source.as_posix()


@pytest.mark.parametrize(("line", "column"), [(0, 1), (5, 1), (1, 0), (1, 10), (3, 2)])
def test_places_that_do_not_exist_are_refused(source: Path, line: int, column: int) -> None:
    with pytest.raises(UsageError, match="there is no"):
        from_position(source, line, column)


def test_the_line_after_a_final_newline_exists(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x\n")
    assert from_position(file, 2, 1) == Cursor("x\n", "", file.as_posix())
    file.write_text("")
    assert from_position(file, 1, 1) == Cursor("", "", file.as_posix())


def test_other_separators_do_not_end_a_line(tmp_path: Path) -> None:
    """Form feeds and U+2028 are characters of a line to every editor, though not to str.splitlines."""
    file = tmp_path / "a.py"
    file.write_text("a\x0cb\u2028c\nd", "utf-8")
    assert from_position(file, 2, 1).prefix == "a\x0cb\u2028c\n"


def test_texts_and_files(tmp_path: Path) -> None:
    file = tmp_path / "prefix.txt"
    file.write_text("from file")
    assert from_texts(f"@{file}", None) == Cursor("from file", None)
    assert from_texts("@@property", "") == Cursor("@property", "")


@given(st.text().filter(lambda t: MARKER not in t), st.text().filter(lambda t: MARKER not in t))
def test_marker_splits_exactly(before: str, after: str) -> None:
    if (before + MARKER + after).count(MARKER) == 1:
        assert from_marker(before + MARKER + after) == Cursor(before, after)


@pytest.mark.parametrize("text", ["none", f"{MARKER} two {MARKER}"])
def test_marker_must_occur_once(text: str) -> None:
    with pytest.raises(UsageError, match="expected once"):
        from_marker(text)


def test_unreadable_files_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_source(tmp_path / "absent.py")
    with pytest.raises(UsageError, match="cannot read"):
        read_source(tmp_path)
    (tmp_path / "latin.py").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"not UTF-8.*byte 3"):
        read_source(tmp_path / "latin.py")
