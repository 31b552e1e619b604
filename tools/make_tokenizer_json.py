"""Derive tokenizer.json from a Gemma-style tokenizer.model, and prove that both give the same ids.

    make_tokenizer_json.py runtime/demo                # write both JSON files, then prove
    make_tokenizer_json.py runtime/demo --check        # only prove what is there

The proof runs over the standard library of the running interpreter and a few awkward strings; it fails
loudly. Control pieces differ by intent: as in CodeGemma, tokenizer.json turns the literal text of a control
token into its id, the sentencepiece model never does. Text that holds one is therefore left out of the
proof.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece
from demo_model import replace_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
SPECIAL = frozenset({"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"})
"""What `skip_special_tokens` drops. Not the FIM tokens, as in CodeGemma."""

AWKWARD = (
    "a\n\n\n\tb",
    "é漢字🙂",
    "x   y",
    "\t\t\tz",
    " lead",
    "trail ",
    "\n" * 40,
    " " * 40,
    "",
    "\x00\x7f",
    "e\u0301",
)

CONFIG = {
    "tokenizer_class": "GemmaTokenizer",
    "model_max_length": 1024,
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}


def convert(model_file: Path) -> Tokenizer:
    """The equivalent fast tokenizer: byte-fallback BPE, spaces written as ▁, one <bos> in front."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model_file.read_bytes())
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges(vocab, {p.piece: p.score for p in proto.pieces if p.type == NORMAL}),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    control = [p.piece for p in proto.pieces if p.type in (CONTROL, UNKNOWN)]
    runs = [p.piece for p in proto.pieces if p.type == USER_DEFINED]
    tokenizer.add_special_tokens(
        [AddedToken(c, normalized=False, special=True) for c in control if c in SPECIAL]
    )
    tokenizer.add_tokens(
        [AddedToken(c, normalized=False, special=False) for c in control if c not in SPECIAL]
    )
    tokenizer.add_tokens([AddedToken(r, normalized=True, special=False) for r in runs])
    return tokenizer


def merges(vocab: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to make a scored piece of two, best first: sentencepiece merges by the result's score."""
    ranked = []
    for piece, score in scores.items():
        halves = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        known = sorted((vocab[a], vocab[b], a, b) for a, b in halves if a in vocab and b in vocab)
        ranked += [(score, a, b) for _, _, a, b in known]
    ranked.sort(key=lambda merge: -merge[0])
    return [(a, b) for _, a, b in ranked]


def texts(limit: int) -> Iterator[tuple[str, str]]:
    """Name and text of the library's modules, at most `limit` characters each, then the awkward strings."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if "site-packages" not in file.parts:
            yield file.relative_to(root).as_posix(), file.read_text("utf-8", errors="replace")[:limit]
    yield from ((repr(text), text) for text in AWKWARD)


def differences(
    model_file: Path, tokenizer: Tokenizer, samples: Iterable[tuple[str, str]]
) -> tuple[int, list[str]]:
    """How many samples were compared, and the names of those that encode or decode differently."""
    reference = sentencepiece.SentencePieceProcessor(str(model_file))
    added = tokenizer.get_added_tokens_decoder().values()
    literals = [token.content for token in added if token.content.startswith(("<", "["))]
    count, bad = 0, []
    for name, text in samples:
        if any(literal in text for literal in literals):
            continue
        count += 1
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if ids != reference.encode(text) or decoded != reference.decode(ids):
            bad.append(name)
    return count, bad


def main() -> None:
    """Convert, or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds tokenizer.model; gets the two JSON files")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, prove the tokenizer.json that is there"
    )
    parser.add_argument(
        "--limit", type=int, default=60_000, help="characters per source file (default 60000)"
    )
    a = parser.parse_args()
    model_file, json_file = a.folder / "tokenizer.model", a.folder / "tokenizer.json"
    if not a.check:
        replace_file(json_file, convert(model_file).to_str(pretty=False).encode())
        replace_file(a.folder / "tokenizer_config.json", (json.dumps(CONFIG, indent=2) + "\n").encode())
    count, bad = differences(model_file, Tokenizer.from_file(str(json_file)), texts(a.limit))
    print(f"{count} texts compared, {len(bad)} differ")
    if bad:
        sys.exit("differing: " + ", ".join(bad[:20]))


if __name__ == "__main__":
    main()
