"""From ``tokenizer.json`` to the compact form of its vocabulary, if the file is of a kind that it can hold.

A file of which the tokenizers library would make other ids must be refused here: then the library reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["compact_form"]

_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
# After the normalizer there is no space left to split at.
_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def compact_form(content: bytes, digest: bytes) -> bytes:
    """The block of bytes that :class:`cg.runtime._native.Vocabulary` reads; ``digest`` names the file.

    Supported is what Gemma's files are: byte-pair encoding with byte fallback over the whole text, spaces
    replaced by ``▁``, and added tokens that are in the vocabulary and match without conditions.

    Raises:
        ValueError: another kind of tokenizer, or not a tokenizer at all; the message says what.
    """
    import cg.runtime._native as _native

    try:
        file = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(file, dict) or file.get("version") != "1.0":
        raise ValueError("not a tokenizer of version 1.0")
    _check_pipeline(file)
    model = _byte_pair_model(file.get("model"))
    names: dict[str, int] = model["vocab"]
    if set(map(type, names.values())) != {int} or sorted(names.values()) != list(range(len(names))):
        raise ValueError("ids are missing or used twice")
    merges: list[Any] = model["merges"]
    if len(set(map(type, merges))) > 1:
        raise ValueError("the merges are of different types")
    added = [_added_token(entry, names) for entry in file.get("added_tokens") or []]
    if len({token_id for token_id, *_ in added}) != len(added):
        raise ValueError("a token is added twice")
    try:
        return _native.build_vocabulary(sorted(names, key=names.__getitem__), added, merges, digest)
    except TypeError as error:
        raise ValueError(f"the merges are not pairs of names: {error}") from error


def _check_pipeline(file: Mapping[str, Any]) -> None:
    """What happens to a text before and after the model."""
    if file.get("normalizer") != _NORMALIZER:
        raise ValueError("the normalizer is not Gemma's")
    if file.get("pre_tokenizer") not in (None, _SPLIT):
        raise ValueError("there is a pre-tokenizer")
    template = file.get("post_processor")
    if template is None:
        return
    parts = template.get("single") if isinstance(template, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError("the post-processor is not Gemma's")
    # Tokens around the text are not asked for; what matters is that the text comes once.
    if template.get("type") != "TemplateProcessing" or sum("Sequence" in part for part in parts) != 1:
        raise ValueError("the post-processor is not Gemma's")


def _byte_pair_model(model: Any) -> dict[str, Any]:
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise ValueError("the model is not byte-pair encoding")
    if model.get("byte_fallback") is not True or model.get("ignore_merges", False) is not False:
        raise ValueError("the model has no byte fallback, or looks up whole words")
    if any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        raise ValueError("the model has dropout, a prefix or a suffix")
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise ValueError("the model has no vocabulary or no merges")
    return model


def _added_token(entry: Any, names: Mapping[str, int]) -> tuple[int, bool, bool]:
    """Id, whether it is special, and whether it is looked for in the normalized text."""
    if not isinstance(entry, dict) or type(entry.get("id")) is not int:
        raise ValueError("an added token is malformed")
    content, token_id = entry.get("content"), entry["id"]
    if any(entry.get(name) is not False for name in ("single_word", "lstrip", "rstrip")):
        raise ValueError(f"the added token {content!r} depends on what stands beside it")
    special, normalized = entry.get("special"), entry.get("normalized")
    if type(special) is not bool or type(normalized) is not bool:
        raise ValueError(f"the added token {content!r} is malformed")
    if not isinstance(content, str) or names.get(content) != token_id or (normalized and " " in content):
        raise ValueError(f"the added token {content!r} is not in the vocabulary")
    return token_id, special, normalized
