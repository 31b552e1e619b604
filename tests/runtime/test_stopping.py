"""Stop strings: nothing of one is ever shown, nothing else is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cg.runtime.errors import UsageError
from cg.runtime.stopping import StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.found is not None:
            return shown, matcher.found
    return shown + matcher.finish(), None


def test_a_stop_string_across_pieces_is_found() -> None:
    assert run(["\n\nclass"], ["x = 1\n", "\ncl", "ass A"]) == ("x = 1", "\n\nclass")


def test_a_false_start_is_shown_after_all() -> None:
    matcher = StopStrings(["abc"])
    assert matcher.push("xab") == "x"
    assert matcher.push("d") == "abd"
    assert matcher.push("a") == ""
    assert matcher.finish() == "a"


def test_the_earliest_of_several_wins() -> None:
    assert run(["end", "stop"], ["a stop and an end"]) == ("a ", "stop")


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError):
        StopStrings([""])


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("ab", max_size=5), max_size=8),
)
def test_streaming_equals_searching_the_whole_text(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    ends = [text.find(s) + len(s) for s in stops if s in text]
    shown, found = run(stops, pieces)
    if not ends:
        assert (shown, found) == (text, None)
    else:
        # A stop string ends no later than the earliest-ending match, give or take the piece it came in.
        assert found in stops
        assert text.startswith(shown + found)
        assert not any(s in shown for s in stops)
