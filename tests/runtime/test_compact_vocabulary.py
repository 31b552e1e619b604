"""The compact form gives the tokenizers library's ids, and as a file it can only cost time."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cg.runtime import compact_vocabulary
from cg.runtime.compact_vocabulary import CompactVocabulary, open_vocabulary
from cg.runtime.errors import TokenizerError
from cg.runtime.home import tokenizers_folder
from cg.runtime.vocabulary import JsonVocabulary, Vocabulary

RUNTIME = Path(__file__).parents[2] / "runtime"
DEMO = RUNTIME / "demo" / "tokenizer.json"
GOLDEN = Path(__file__).parents[1] / "golden"
LIBRARY = JsonVocabulary(DEMO)


def compact(file: Path, folder: Path) -> Vocabulary:
    """The second opening's vocabulary."""
    assert open_vocabulary(file, folder)[1] is None
    vocabulary, note = open_vocabulary(file, folder)
    assert note is None
    assert isinstance(vocabulary, CompactVocabulary)
    return vocabulary


@pytest.fixture(scope="module")
def demo_compact(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return compact(DEMO, tmp_path_factory.mktemp("kept"))


FRAGMENTS = st.sampled_from(
    [
        *list(LIBRARY._library.get_vocab())[::97], "<|fim_middle|>", "<unused7>", "<td>", "<0x41>", "[@BOS@]",
        "\n" * 31, "\n" * 32, " " * 31, "\t" * 40, "▁", "▁▁▁", " ▁ ", "e\u0301", "\u200d", "\0", "\r\n",
        "\U0001f468\u200d\U0001f469", "def ", "return", "self.", "    ", "==", "\ufeff", "\U0010ffff",
    ]
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(FRAGMENTS, max_size=20).map("".join)


@settings(deadline=None, max_examples=500)
@given(TEXTS)
def test_any_text_has_the_library_s_ids(demo_compact: Vocabulary, text: str) -> None:
    assert demo_compact.encode(text) == LIBRARY.encode(text)


def test_every_plane_of_unicode(demo_compact: Vocabulary) -> None:
    for start in range(0, 0x110000, 0x800):
        characters = (chr(c) for c in range(start, start + 0x800, 7) if not 0xD800 <= c < 0xE000)
        text = "".join(characters)
        assert demo_compact.encode(text) == LIBRARY.encode(text), hex(start)


@pytest.mark.parametrize("character", list("\n \t▁=a\0é漢\u0301<\U0001f642"), ids=ascii)
def test_runs_of_one_character(demo_compact: Vocabulary, character: str) -> None:
    for length in (*range(70), 255, 256, 257, 4096):
        assert demo_compact.encode(character * length) == LIBRARY.encode(character * length), length


def test_sources_and_long_texts(demo_compact: Vocabulary) -> None:
    sources = [file.read_text("utf-8") for file in sorted(RUNTIME.rglob("*.py"))]
    for text in sources:
        assert demo_compact.encode(text) == LIBRARY.encode(text)
    everything = "".join(sources)
    megabyte = everything * (1_000_000 // len(everything) + 1)
    one_line = megabyte.replace("\n", ";")  # nothing cuts it: one sequence of a million symbols
    for text in (megabyte, one_line):
        assert len(text) >= 1_000_000
        assert demo_compact.encode(text) == LIBRARY.encode(text)


def test_names_and_ids(demo_compact: Vocabulary) -> None:
    assert (demo_compact.size, demo_compact.special, demo_compact.file) == (
        LIBRARY.size,
        LIBRARY.special,
        DEMO,
    )
    for token_id in (-1, *range(LIBRARY.size), LIBRARY.size, 1 << 40):
        token = demo_compact.token(token_id)
        assert token == (LIBRARY.token(token_id) if 0 <= token_id < LIBRARY.size else None)
        assert token is None or demo_compact.token_id(token) == token_id
    for name in ("", "no such token", "<0x0A", "\0", "é" * 1000):
        assert demo_compact.token_id(name) == LIBRARY.token_id(name)


def test_lone_surrogates_are_an_ordinary_error(demo_compact: Vocabulary) -> None:
    with pytest.raises(TokenizerError, match="cannot encode"):
        demo_compact.encode("a\ud800")


@pytest.mark.parametrize("name", ["gemma-mqa", "gemma-mha-wide", "gemma-mqa-JQ4"])
def test_golden_tokenizers(name: str, tmp_path: Path) -> None:
    file = GOLDEN / name / "tokenizer.json"
    ours, theirs = compact(file, tmp_path), JsonVocabulary(file)
    for text in ("def f(x):\n\n    return x\t# é漢\U0001f642\0", "<|fim_prefix|>  ▁▁", "\n" * 40):
        assert ours.encode(text) == theirs.encode(text)


def test_several_threads_share_one(demo_compact: Vocabulary) -> None:
    texts = [file.read_text("utf-8") for file in sorted(RUNTIME.glob("*.py"))]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(demo_compact.encode, texts)) == [LIBRARY.encode(text) for text in texts]


TEXT = "def f(x):\n    return x + 1  # é\n"


def kept_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def cut(file: Path, size: int) -> None:
    os.truncate(file, size)


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def other_version(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content.replace(b"cgvocab1", b"cgvocab2", 1))


def other_tokenizer(file: Path) -> None:
    golden = compact(GOLDEN / "gemma-mqa" / "tokenizer.json", file.parent.parent / "other")
    assert golden.size != LIBRARY.size
    shutil.copy(kept_file(file.parent.parent / "other"), file)


def damages() -> dict[str, Callable[[Path], object]]:
    rng = random.Random(3)
    cuts = [0, 1, 7, 8, 127, 128, 129, 4096, 100_000, *(rng.randrange(336_000) for _ in range(8))]
    flips = [*(rng.randrange(1024) for _ in range(10)), *(rng.randrange(8 * 336_000) for _ in range(20))]
    return {
        **{f"cut at {size}": partial(cut, size=size) for size in cuts},
        **{f"flipped {bit}": partial(flip, bit=bit) for bit in flips},
        "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
        "another version": other_version,
        "another tokenizer's": other_tokenizer,
        "text": lambda file: file.write_text("cgvocab1"),
    }


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_file_is_made_anew(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    compact(DEMO, folder)
    file = kept_file(folder)
    whole = file.read_bytes()
    damages()[damage](file)
    vocabulary, note = open_vocabulary(DEMO, folder)
    assert vocabulary.encode(TEXT) == LIBRARY.encode(TEXT)
    assert note is not None
    assert str(file) in note
    assert file.read_bytes() == whole
    assert isinstance(open_vocabulary(DEMO, folder)[0], CompactVocabulary)


def test_a_file_in_use_can_be_replaced(tmp_path: Path) -> None:
    vocabulary = compact(DEMO, tmp_path)
    file = kept_file(tmp_path)
    content = file.read_bytes()
    file.unlink()
    assert open_vocabulary(DEMO, tmp_path)[1] is None
    assert file.read_bytes() == content
    assert vocabulary.encode(TEXT) == LIBRARY.encode(TEXT)


def test_a_changed_tokenizer_gets_a_file_of_its_own(tmp_path: Path) -> None:
    changed = tmp_path / "tokenizer.json"
    changed.write_text(DEMO.read_text("utf-8").replace('"<unused0>"', '"<renamed>"'), "utf-8")
    folder = tmp_path / "kept"
    first, second = compact(DEMO, folder), compact(changed, folder)
    assert (first.token(7), second.token(7)) == ("<unused0>", "<renamed>")
    assert len(list(folder.iterdir())) == 2


def test_where_nothing_can_be_kept_it_is_made_every_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for _ in range(2):
        vocabulary, note = open_vocabulary(DEMO, tmp_path / "file" / "kept")
        assert isinstance(vocabulary, CompactVocabulary)
        assert vocabulary.encode(TEXT) == LIBRARY.encode(TEXT)
        assert note is not None
        assert "the compact form of tokenizer.json cannot be kept here" in note


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    vocabulary, note = open_vocabulary(DEMO, tmp_path)
    assert vocabulary.encode(TEXT) == LIBRARY.encode(TEXT)
    assert note is not None
    assert note.endswith("No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CG_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert tokenizers_folder() is None
    vocabulary, note = open_vocabulary(DEMO, tokenizers_folder())
    assert vocabulary.encode(TEXT) == LIBRARY.encode(TEXT)
    assert note == "there is no home folder to keep the compact form of tokenizer.json in"


def test_where_a_folder_stands_in_the_way(tmp_path: Path) -> None:
    compact(DEMO, tmp_path)
    file = kept_file(tmp_path)
    file.unlink()
    (file / "inside").mkdir(parents=True)
    vocabulary, note = open_vocabulary(DEMO, tmp_path)
    assert vocabulary.encode(TEXT) == LIBRARY.encode(TEXT)
    assert note is not None
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_another_kind_of_tokenizer_is_left_to_the_library(tmp_path: Path) -> None:
    other = tmp_path / "tokenizer.json"
    content = json.loads(DEMO.read_text("utf-8"))
    content["model"]["ignore_merges"] = True
    other.write_text(json.dumps(content))
    vocabulary, note = open_vocabulary(other, tmp_path / "kept")
    assert isinstance(vocabulary, JsonVocabulary)
    assert note is not None
    assert "there is no compact form" in note
    assert not (tmp_path / "kept").exists()


def test_without_the_kernels_the_library_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cg.runtime._native", None)
    vocabulary, note = open_vocabulary(DEMO, tmp_path / "kept")
    assert isinstance(vocabulary, JsonVocabulary)
    assert note is None
    assert not (tmp_path / "kept").exists()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot be read"):
        open_vocabulary(tmp_path / "tokenizer.json", tmp_path)


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_vocabulary, "_KEPT", 2)
    folder = tmp_path / "kept"
    for number in range(4):
        file = tmp_path / "tokenizer.json"
        file.write_text(DEMO.read_text("utf-8") + " " * number, "utf-8")
        compact(file, folder)
    assert len(list(folder.iterdir())) == 2


def test_processes_that_start_together(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from cg.runtime.compact_vocabulary import open_vocabulary;"
        f"v, note = open_vocabulary(pathlib.Path({str(DEMO)!r}), pathlib.Path({str(tmp_path)!r}));"
        f"print(v.encode({TEXT!r}), note)"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    outputs = {run.communicate()[0] for run in runs}
    assert outputs == {f"{LIBRARY.encode(TEXT)} None\n"}
    assert isinstance(open_vocabulary(DEMO, tmp_path)[0], CompactVocabulary)
    assert kept_file(tmp_path).name.endswith("-v1.vocabulary")


def test_the_library_is_not_imported_when_it_is_not_needed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from cg.runtime.compact_vocabulary import open_vocabulary;"
        f"open_vocabulary(pathlib.Path({str(DEMO)!r}), pathlib.Path({str(tmp_path)!r}));"
        "sys.exit('tokenizers' in sys.modules)"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
