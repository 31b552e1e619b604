"""Which tokenizers get a compact form, and that a change of any part is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cg.runtime import _native
from cg.runtime.compact_form import compact_form
from cg.runtime.vocabulary import JsonVocabulary

DEMO = Path(__file__).parents[2] / "runtime" / "demo"
CONTENT: dict[str, Any] = json.loads((DEMO / "tokenizer.json").read_text("utf-8"))
DIGEST = bytes(32)
TEXTS = [
    "def f(x):\n\n\treturn  x + 1  # \u00e9\u6f22\n",
    Path(__file__).read_text("utf-8"),
    "a\t\tb<mask> <td>\u2581\u2581  \0",
]


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    content = json.loads(json.dumps(CONTENT))
    change(content)
    return json.dumps(content).encode()


def rename(content: dict[str, Any], old: str, new: str) -> None:
    content["model"]["vocab"][new] = content["model"]["vocab"].pop(old)


def mask_with_spaces(content: dict[str, Any], normalized: bool) -> None:
    rename(content, "<mask>", "x + 1")
    content["added_tokens"][4].update(content="x + 1", normalized=normalized)


UNSUPPORTED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other normalizer": (lambda c: c["normalizer"].update(content="_"), "normalizer"),
    "no normalizer": (lambda c: c.update(normalizer=None), "normalizer"),
    "regular expression": (lambda c: c["normalizer"].update(pattern={"Regex": " "}), "normalizer"),
    "pre-tokenizer": (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer"),
    "split at letters": (
        lambda c: c.update(
            pre_tokenizer={
                "type": "Split", "pattern": {"String": "e"}, "behavior": "Isolated", "invert": False,
            }
        ),
        "pre-tokenizer",
    ),
    "text twice": (
        lambda c: c["post_processor"]["single"].append({"Sequence": {"id": "A", "type_id": 0}}),
        "post-processor",
    ),
    "other post-processor": (
        lambda c: c.update(
            post_processor={"type": "BertProcessing", "sep": ["<eos>", 1], "cls": ["<bos>", 2]}
        ),
        "post-processor",
    ),
    "no byte fallback": (lambda c: c["model"].update(byte_fallback=False), "byte fallback"),
    "whole words": (lambda c: c["model"].update(ignore_merges=True), "byte fallback"),
    "dropout": (lambda c: c["model"].update(dropout=0.5), "dropout"),
    "prefix": (lambda c: c["model"].update(continuing_subword_prefix="##", merges=[]), "prefix"),
    "suffix": (lambda c: c["model"].update(end_of_word_suffix="</w>"), "suffix"),
    "other model": (
        lambda c: c.update(
            added_tokens=[], model={"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}
        ),
        "byte-pair",
    ),
    "gap in the ids": (lambda c: c["model"]["vocab"].update({"new": 5000}), "ids are missing"),
    "id used twice": (lambda c: c["model"]["vocab"].update({"new": 300}), "ids are missing"),
    "added token with white space": (lambda c: c["added_tokens"][-1].update(lstrip=True), "beside it"),
    "added token before a space": (lambda c: c["added_tokens"][-1].update(rstrip=True), "beside it"),
    "added word": (lambda c: c["added_tokens"][-1].update(single_word=True), "beside it"),
    "added token outside the vocabulary": (
        lambda c: c["added_tokens"].append(
            {**c["added_tokens"][-1], "content": "new token", "id": len(c["model"]["vocab"])}
        ),
        "not in the vocabulary",
    ),
    "no such byte": (lambda c: rename(c, "<0xE2>", "another name"), "a byte has no piece"),
    "no version": (lambda c: c.pop("version"), "version 1.0"),
    "no model": (lambda c: c.pop("model"), "not byte-pair"),
    "vocabulary is a list": (lambda c: c["model"].update(vocab=[]), "no vocabulary"),
    "no merges": (lambda c: c["model"].pop("merges"), "no merges"),
    "an id is text": (lambda c: c["model"]["vocab"].update(a="1"), "ids are missing"),
    "an id is a truth value": (lambda c: c["model"]["vocab"].update({"<eos>": True}), "ids are missing"),
    "merge of three": (lambda c: c["model"]["merges"].append(["a", "b", "c"]), "no pair"),
    "merge of three in a string": (lambda c: c["model"].update(merges=["a b c"]), "no pair"),
    "merge of one in a string": (lambda c: c["model"].update(merges=["a"]), "no pair"),
    "merge of unknown pieces": (lambda c: c["model"]["merges"].append(["\0", "\0"]), "unknown pieces"),
    "merges of two types": (lambda c: c["model"]["merges"].append("a b"), "different types"),
    "merge of numbers": (lambda c: c["model"]["merges"].append([1, 2]), "pairs of names"),
    "merges are numbers": (lambda c: c["model"].update(merges=[1]), "pairs of names"),
    "header before the merges": (lambda c: c["model"].update(merges=["#version: 0.2"]), "header"),
    "added token is text": (lambda c: c["added_tokens"].append("x"), "malformed"),
    "added token without id": (lambda c: c["added_tokens"][0].pop("id"), "malformed"),
    "added token without a flag": (lambda c: c["added_tokens"][0].pop("normalized"), "malformed"),
    "added token with another id": (lambda c: c["added_tokens"][0].update(id=1), "not in the vocabulary"),
    "added token with a space": (
        lambda c: mask_with_spaces(c, normalized=True),
        "not in the vocabulary",
    ),
    "token added twice": (lambda c: c["added_tokens"].append(c["added_tokens"][0]), "added twice"),
    "lone surrogate": (lambda c: rename(c, "def", "\ud800"), "surrogates"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_other_tokenizers_have_none(case: str) -> None:
    change, reason = UNSUPPORTED[case]
    with pytest.raises(ValueError, match=reason):
        compact_form(changed(change), DIGEST)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"[" * 100_000, b"\xef\xbb\xbf{}"]
)
def test_what_is_no_tokenizer_at_all_has_none(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        compact_form(content, DIGEST)


SUPPORTED: dict[str, Callable[[dict[str, Any]], object]] = {
    "as it is": lambda c: None,
    "no special tokens around": lambda c: c.update(post_processor=None),
    "as transformers writes it": lambda c: c.update(
        pre_tokenizer={
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        }
    ),
    "merges as strings": lambda c: c["model"].update(merges=[" ".join(m) for m in c["model"]["merges"]]),
    "merges twice": lambda c: c["model"]["merges"].extend(c["model"]["merges"][:500]),
    "merges backwards": lambda c: c["model"]["merges"].reverse(),
    "no merges": lambda c: c["model"].update(merges=[]),
    "no added tokens": lambda c: c.update(added_tokens=[]),
    "added tokens in another order": lambda c: c["added_tokens"].reverse(),
    "added tokens of the text as it is": lambda c: [t.update(normalized=False) for t in c["added_tokens"]],
    "added tokens of the normalized text": lambda c: [t.update(normalized=True) for t in c["added_tokens"]],
    "added token with spaces": lambda c: mask_with_spaces(c, normalized=False),
    "a tab that is only a character": lambda c: rename(c, "<0x09>", "another name"),
    "other settings": lambda c: c["model"].update(fuse_unk=False, unk_token=None),
    "settings left out": lambda c: [c["model"].pop(name) for name in ("ignore_merges", "dropout")],
    "a decoder": lambda c: c.update(decoder=None),
    "somebody's training": lambda c: c.update(
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SUPPORTED)
def test_ids_are_the_library_s(case: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(changed(SUPPORTED[case]))
    library = JsonVocabulary(file)
    block = np.frombuffer(compact_form(file.read_bytes(), DIGEST), np.uint8)
    native = _native.Vocabulary(block, DIGEST)
    for text in TEXTS:
        assert native.encode(text) == library.encode(text)
    assert native.size == library.size
    assert [native.token(i) for i in range(native.size)] == [library.token(i) for i in range(library.size)]
    assert {native.token(i): i for i in native.special} == library.special
