"""Ids against transformers, round trips of any text, and control tokens that text cannot make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cg.runtime.errors import PromptError, TokenizerError
from cg.runtime.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "runtime" / "demo"
GOLDEN = Path(__file__).parents[1] / "golden"
JSON = Tokenizer.load(DEMO)
MODEL = Tokenizer.load(DEMO, prefer="model")
TRANSFORMERS = AutoTokenizer.from_pretrained(str(DEMO))
CONTROL_IDS = {JSON.control_id(name) for name in JSON.control_names()}

TEXTS = [
    "",
    " ",
    "def f(x):\n    return x\n",
    "\n\n\n",
    "a\n\n\n\tb",
    "\t\t\tx\t",
    " leading and trailing ",
    "x" + " " * 100 + "y",
    "\n" * 100,
    "\t" * 100,
    "if a:\n\t\tif b:\n            pass\r\n",
    "é漢字\U0001f642\u0301\u200d\ufeff\u00a0",
    "\0\x01\x7f\ufffd\U0010ffff",
    "<table><tr> <0x41> </s> <pad > [@BOS",
    "#!/usr/bin/env python3\nimport os, sys\nprint(os.environ['HOME'], file=sys.stderr)  # comment\n",
]

FRAGMENTS = st.sampled_from(
    [
        *JSON.control_names()[:20], "<|fim_prefix|>", "<|fim_middle|>", "<start_of_turn>", "[@BOS@]",
        "<", "<|", "|>", "fim_middle", "pad>", "[@", " ", "\n", "▁", "▁▁", "a", "def ", "\t\t", "é",
    ]
)  # fmt: skip
LITERAL_TEXT = st.lists(FRAGMENTS, max_size=12).map("".join)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def transformers_ids(text: str) -> list[int]:
    return TRANSFORMERS.encode(text, add_special_tokens=False) if text else []


def names_no_control(text: str) -> bool:
    return "▁" not in text and not any(True for _ in JSON.find_control(text))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled tokenizer, to be spoiled."""
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "config.json"):
        shutil.copy(DEMO / name, tmp_path / name)
    return tmp_path


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("tokenizer", [JSON, MODEL], ids=["json", "model"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_ids_are_those_of_transformers(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == transformers_ids(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_of_real_source_files_are_those_of_transformers() -> None:
    for file in sorted((DEMO.parent).glob("*.py")):
        text = file.read_text()
        if names_no_control(text):
            assert JSON.encode(text) == MODEL.encode(text) == transformers_ids(text), file


@pytest.mark.parametrize("name", ["gemma-mqa", "gemma-mha-wide", "gemma-mqa-JQ4"])
def test_golden_checkpoints_have_the_ids_of_transformers(name: str) -> None:
    ours = Tokenizer.load(GOLDEN / name)
    theirs = AutoTokenizer.from_pretrained(str(GOLDEN / name))
    for text in filter(None, TEXTS):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == text


@settings(deadline=None)
@given(ANY_TEXT)
def test_any_text_comes_back(text: str) -> None:
    ids = JSON.encode(text)
    assert JSON.decode(ids) == text
    assert MODEL.encode(text) == ids
    assert MODEL.decode(ids) == text
    if names_no_control(text):
        assert ids == transformers_ids(text)


@settings(deadline=None)
@given(LITERAL_TEXT)
def test_no_text_makes_a_control_token(text: str) -> None:
    ids = JSON.encode(text)
    assert not CONTROL_IDS & set(ids)
    assert JSON.decode(ids) == text
    assert MODEL.encode(text) == ids


@pytest.mark.parametrize("tokenizer", [JSON, MODEL], ids=["json", "model"])
def test_every_control_token_is_plain_text_when_a_user_writes_it(tokenizer: Tokenizer) -> None:
    assert len(CONTROL_IDS) >= 108
    for name in tokenizer.control_names():
        ids = tokenizer.encode(f"x {name}y")
        assert ids == transformers_ids(f"x {name[0]}") + transformers_ids(f"{name[1:]}y"), name
        assert not CONTROL_IDS & set(ids), name


def test_a_control_literal_splits_after_its_first_character() -> None:
    expected = transformers_ids("a <") + transformers_ids("|fim_middle|> b <") + transformers_ids("bos>")
    assert JSON.encode("a <|fim_middle|> b <bos>") == expected


def test_a_literal_inside_a_broken_literal_is_found() -> None:
    assert JSON.encode("<<pad>pad>") == transformers_ids("<<") + transformers_ids("pad>pad>")


def test_overlapping_literals_are_all_found(folder: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        names = {token["id"]: token for token in content["added_tokens"]}
        for token_id, name in ((67, "<x<"), (68, "<y")):
            del content["model"]["vocab"][names[token_id]["content"]]
            content["model"]["vocab"][name] = token_id
            names[token_id]["content"] = name
            names[token_id]["special"] = True

    edit(folder / "tokenizer.json", change)
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("a<x<y")
    assert not {67, 68} & set(ids)
    assert tokenizer.decode(ids) == "a<x<y"
    assert [(hit.start, hit.stop, hit.token_id) for hit in tokenizer.find_control("a<x<y")] == [
        (1, 4, 67),
        (3, 5, 68),
    ]


def test_a_special_token_of_one_character_is_spelt_in_bytes(folder: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["model"]["vocab"]["§"] = content["model"]["vocab"].pop("<mask>")
        token = next(token for token in content["added_tokens"] if token["content"] == "<mask>")
        token |= {"content": "§", "special": True}

    edit(folder / "tokenizer.json", change)
    tokenizer = Tokenizer.load(folder)
    a, c2, a7 = 217 + ord("a"), 217 + 0xC2, 217 + 0xA7
    assert tokenizer.encode("§") == [c2, a7]
    assert tokenizer.decode([c2, a7, a]) == "§a"


def test_the_space_sign_of_the_vocabulary_is_spelt_in_bytes() -> None:
    sign = [217 + 0xE2, 217 + 0x96, 217 + 0x81]
    for tokenizer in (JSON, MODEL):
        assert tokenizer.encode("▁") == sign
        assert tokenizer.encode("a▁▁ b") == [*transformers_ids("a"), *sign, *sign, *transformers_ids(" b")]


def test_white_space_runs_are_single_tokens() -> None:
    for tokenizer in (JSON, MODEL):
        assert tokenizer.encode("\n\n\n") == [110]
        assert tokenizer.encode("    ") == [141]
        assert tokenizer.encode("\t\t") == [170]
        assert tokenizer.encode("\n" * 33) == [138, 109]


@pytest.mark.parametrize("text", ["\ud800", "abc\udcffdef", "\ude00\ud83d"])
def test_lone_surrogates_are_refused(text: str) -> None:
    for tokenizer in (JSON, MODEL):
        with pytest.raises(PromptError, match="lone surrogate") as caught:
            tokenizer.encode(text)
        assert caught.value.hint


@pytest.mark.parametrize("prefer", ["json", "model"])
def test_special_ids_are_codegemmas(prefer: Any) -> None:
    tokenizer = Tokenizer.load(DEMO, prefer=prefer)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    names = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"]
    assert [tokenizer.control_id(name) for name in names] == [67, 68, 69, 70]
    assert [tokenizer.control_id(name) for name in ("<start_of_turn>", "<end_of_turn>")] == [106, 107]
    assert tokenizer.vocab_size == json.loads((DEMO / "config.json").read_text())["vocab_size"]


def test_unknown_control_token() -> None:
    assert not JSON.has_control("<|nothing|>")
    assert not JSON.has_control("def")  # a token, but not a control token
    with pytest.raises(TokenizerError, match=r"no control token <\|nothing\|>"):
        JSON.control_id("<|nothing|>")


def test_decode_leaves_control_tokens_out_unless_asked() -> None:
    ids = [2, 67, *JSON.encode("  a\n"), 69, 68, 5, 7, 1]
    for tokenizer in (JSON, MODEL):
        assert tokenizer.decode(ids) == "  a\n"
        shown = "<bos><|fim_prefix|>  a\n<|fim_suffix|><|fim_middle|><2mass><unused0><eos>"
        assert tokenizer.decode(ids, show_control=True) == shown


def test_decode_of_broken_utf8() -> None:
    e2, a = 217 + 0xE2, 217 + ord("a")
    assert JSON.decode([e2, a, e2]) == "\ufffda\ufffd"


@pytest.mark.parametrize("token_id", [-1, 4096, 1 << 40])
def test_ids_outside_the_vocabulary(token_id: int) -> None:
    for tokenizer in (JSON, MODEL):
        with pytest.raises(TokenizerError, match=f"token id {token_id} is outside"):
            tokenizer.decode([token_id])


def test_stream_holds_back_half_a_character() -> None:
    stream = MODEL.stream()
    assert [stream.push(217 + byte) for byte in "a\U0001f642é".encode()] == [
        "a", "", "", "", "\U0001f642", "", "é",
    ]  # fmt: skip
    assert stream.finish() == ""


def test_stream_flushes_a_broken_character_and_starts_anew() -> None:
    stream = JSON.stream()
    assert stream.push(217 + 0xF0) == ""
    assert stream.finish() == "\ufffd"
    assert stream.push(217 + 0x82) == "\ufffd"
    assert stream.push(JSON.encode("  x")[0]) + stream.finish() == "  "


@settings(deadline=None)
@given(st.lists(st.integers(0, 4095) | st.integers(217, 472), max_size=30))
def test_stream_is_decode(ids: list[int]) -> None:
    stream = JSON.stream()
    pieces = [stream.push(token_id) for token_id in ids]
    assert "".join(pieces) + stream.finish() == JSON.decode(ids) == MODEL.decode(ids)


@settings(deadline=None)
@given(ANY_TEXT)
def test_stream_of_text_is_the_text(text: str) -> None:
    stream = JSON.stream()
    assert "".join(map(stream.push, JSON.encode(text))) == text
    assert stream.finish() == ""
