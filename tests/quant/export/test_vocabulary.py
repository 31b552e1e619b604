"""Vocabularies as sentencepiece pieces: from tokenizer.model, from tokenizer.json, and back."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import sentencepiece

from cg.quant.evaluation_text import read_held_out
from cg.quant.export.vocabulary import Pieces, PieceType, model_file, read_pieces
from cg.runtime.errors import TokenizerError, UsageError
from cg.runtime.tokenizer import Tokenizer

REAL = os.environ.get("CG_TEST_TOKENIZER")  # now: a test's own environment has no such variables
AWKWARD = (
    "x\ty\n\n\n\n  z   é漢字🙂\x00\x7f e\u0301 <|fim_prefix|>a<pad><unused7> ▁▁ \r\n" + " " * 40 + "\n" * 40
)


def pieces_of(folder: Path, *names: str, of: Path) -> Pieces:
    """The pieces of a folder with only these files of ``of``."""
    folder.mkdir()
    for name in (*names, "config.json", "tokenizer_config.json"):
        shutil.copyfile(of / name, folder / name)
    return read_pieces(folder, Tokenizer.load(folder))


def test_both_files_give_the_same_merges(demo: Path, tmp_path: Path) -> None:
    model = pieces_of(tmp_path / "model", "tokenizer.model", of=demo)
    json_ = pieces_of(tmp_path / "json", "tokenizer.json", of=demo)
    assert model.types == json_.types
    assert model.texts == json_.texts
    normal = [i for i, kind in enumerate(model.types) if kind is PieceType.NORMAL]
    long = [i for i in normal if len(model.texts[i]) > 1]  # what something is merged to
    assert sorted(long, key=lambda i: -model.scores[i]) == sorted(long, key=lambda i: -json_.scores[i])
    assert len({json_.scores[i] for i in normal}) == len(normal)


@pytest.mark.parametrize("source", ["tokenizer.model", "tokenizer.json"])
def test_a_rebuilt_model_gives_the_same_ids(demo: Path, tmp_path: Path, source: str) -> None:
    pieces = pieces_of(tmp_path / "from", source, of=demo)
    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir()
    (rebuilt / "tokenizer.model").write_bytes(model_file(pieces))
    ours, theirs = Tokenizer.load(rebuilt), Tokenizer.load(demo)
    for text in (read_held_out().text[:30_000], AWKWARD):
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == text
    assert {name: ours.control_id(name) for name in ours.control_names()} == {
        name: theirs.control_id(name) for name in theirs.control_names()
    }


def test_the_library_reads_what_is_meant(demo: Path, tmp_path: Path) -> None:
    pieces = pieces_of(tmp_path / "from", "tokenizer.model", of=demo)
    (tmp_path / "tokenizer.model").write_bytes(model_file(pieces))
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    original = sentencepiece.SentencePieceProcessor(model_file=str(demo / "tokenizer.model"))
    assert library.get_piece_size() == original.get_piece_size()
    for role in ("bos_id", "eos_id", "pad_id", "unk_id"):
        assert getattr(library, role)() == getattr(original, role)(), role
    assert library.encode(AWKWARD) == original.encode(AWKWARD)


def test_control_tokens_of_the_model_keep_their_names(demo: Path, tmp_path: Path) -> None:
    """CodeGemma's tokenizer.model calls them unused, tokenizer_config.json knows better."""
    protobuf = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    folder = tmp_path / "renamed"
    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("tokenizer.json", "*.safetensors"))
    model = protobuf.ModelProto()
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    model.pieces[67].piece, model.pieces[67].type = "<unused60>", int(PieceType.USER_DEFINED)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings["added_tokens_decoder"] = {"67": {"content": "<|fim_prefix|>", "special": False}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    pieces = read_pieces(folder, Tokenizer.load(folder))
    assert (pieces.texts[67], pieces.types[67]) == ("<|fim_prefix|>", PieceType.CONTROL)


def test_a_tab_that_is_a_byte(demo: Path, tmp_path: Path) -> None:
    """transformers renames the piece <0x09> of Gemma."""
    folder = tmp_path / "tab"
    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("tokenizer.model", "*.safetensors"))
    raw = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = raw["model"]["vocab"]
    byte = vocabulary["<0x09>"]
    vocabulary["<spare>"], vocabulary["\t"] = vocabulary["\t"], vocabulary.pop("<0x09>")
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] != "\t"]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    pieces = read_pieces(folder, Tokenizer.load(folder))
    assert (pieces.texts[byte], pieces.types[byte]) == ("<0x09>", PieceType.BYTE)


def test_runs_of_spaces_that_are_merged(demo: Path, tmp_path: Path) -> None:
    """Gemma's own tokenizer.json looks for them where there are none, see ``_is_taken_whole``."""
    folder = tmp_path / "merged"
    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("tokenizer.model", "*.safetensors"))
    raw = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    runs = [token for token in raw["added_tokens"] if set(token["content"]) == {"▁"}]
    for token in runs:
        token["normalized"] = False
    lengths = sorted(len(token["content"]) for token in runs)
    merges = [["▁" * i, "▁" * (n - i)] for n in lengths for i in range(1, n)]
    raw["model"]["merges"] = merges + raw["model"]["merges"]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = Tokenizer.load(folder)
    pieces = read_pieces(folder, tokenizer)
    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir()
    (rebuilt / "tokenizer.model").write_bytes(model_file(pieces))
    ours = Tokenizer.load(rebuilt)
    apart = Tokenizer.load(demo)
    differ = 0
    for count in range(1, 100):
        text = "x" + " " * count + "y = 1\n"
        ids = tokenizer.encode(text)
        assert ours.encode(text) == ids
        differ += ids != apart.encode(text)
    assert differ > 50  # from 32 spaces on


@pytest.mark.weights
def test_the_real_vocabulary(tmp_path: Path) -> None:
    assert REAL, "set CG_TEST_TOKENIZER to the tokenizer.json of a CodeGemma checkpoint"
    shutil.copyfile(REAL, tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.load(tmp_path)
    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir()
    (rebuilt / "tokenizer.model").write_bytes(model_file(read_pieces(tmp_path, tokenizer)))
    ours = Tokenizer.load(rebuilt)
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    planes = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))
    for text in (AWKWARD, planes, *(f.read_text("utf-8", errors="replace") for f in sources)):
        assert ours.encode(text) == tokenizer.encode(text)


def test_padding_comes_off_again(demo: Path, tmp_path: Path) -> None:
    pieces = pieces_of(tmp_path / "from", "tokenizer.model", of=demo)
    padded = pieces.padded(len(pieces.texts) + 3)
    assert padded.texts[-1] == f"[PAD{len(pieces.texts) + 2}]"
    assert padded.types[-3:] == (PieceType.UNUSED,) * 3
    assert len(padded.scores) == len(padded.texts)
    assert padded.stripped() == pieces == pieces.stripped() == pieces.padded(5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model": {"vocab": {"a": 0}}}', "byte-pair merges"),
        ('{"model": {"vocab": [], "merges": []}}', "byte-pair merges"),
        ('{"model": {"vocab": {"a": 0, "b": 2}, "merges": []}}', "byte-pair merges: KeyError\\(1\\)"),
        ("[]", "not a JSON object"),
    ],
)
def test_malformed_json(demo: Path, tmp_path: Path, content: str, message: str) -> None:
    tokenizer = Tokenizer.load(demo)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=message):
        read_pieces(tmp_path, tokenizer)


def test_malformed_model(demo: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(demo)
    (tmp_path / "tokenizer.model").write_bytes(b"\xff" * 100)
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        read_pieces(tmp_path, tokenizer)


def test_files_of_two_models(demo: Path, tmp_path: Path) -> None:
    pieces = pieces_of(tmp_path / "from", "tokenizer.model", of=demo)
    shorter = Pieces(pieces.texts[:-1], pieces.scores[:-1], pieces.types[:-1])
    tokenizer = Tokenizer.load(demo)
    (tmp_path / "tokenizer.model").write_bytes(model_file(shorter))
    with pytest.raises(TokenizerError, match="4095 pieces, the tokenizer 4096"):
        read_pieces(tmp_path, tokenizer)


def test_a_vocabulary_without_unknown(demo: Path, tmp_path: Path) -> None:
    pieces = pieces_of(tmp_path / "from", "tokenizer.model", of=demo)
    types = tuple(PieceType.NORMAL if k is PieceType.UNKNOWN else k for k in pieces.types)
    with pytest.raises(TokenizerError, match="0 unknown tokens"):
        model_file(Pieces(pieces.texts, pieces.scores, types))


def test_a_missing_package_is_named(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    monkeypatch.delattr(sentencepiece, "sentencepiece_model_pb2", raising=False)
    with pytest.raises(UsageError, match="package protobuf"):
        pieces_of(tmp_path / "from", "tokenizer.model", of=demo)
