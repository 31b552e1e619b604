"""Which tokenizer files are taken, what they may say, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from cg.runtime.errors import TokenizerError
from cg.runtime.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "runtime" / "demo"
X = Tokenizer.load(DEMO).encode(" x")


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


def test_json_is_taken_when_both_files_are_there(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"not a model")
    assert Tokenizer.load(folder).encode(" x") == X
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        Tokenizer.load(folder, prefer="model")


@pytest.mark.parametrize("kept", ["tokenizer.json", "tokenizer.model"])
def test_one_file_is_enough(folder: Path, kept: str) -> None:
    for name in {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "config.json"} - {kept}:
        (folder / name).unlink()
    for prefer in ("json", "model"):
        tokenizer = Tokenizer.load(folder, prefer=prefer)
        assert tokenizer.encode(" x") == X
        assert tokenizer.bos_id == 2


@pytest.mark.parametrize(("used", "other"), [("json", "sentencepiece"), ("model", "tokenizers")])
def test_only_the_library_in_use_is_imported(used: str, other: str) -> None:
    code = (
        "import sys, pathlib; from cg.runtime.tokenizer import Tokenizer;"
        f"Tokenizer.load(pathlib.Path({str(DEMO)!r}), prefer={used!r}); sys.exit({other!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_somebodys_training_are_ignored(folder: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.enable_truncation(3)
    library.enable_padding(length=50)
    library.save(str(folder / "tokenizer.json"))
    text = "def f(x): return x + 1"
    assert Tokenizer.load(folder).encode(text) == Tokenizer.load(DEMO).encode(text)


@pytest.mark.parametrize("prefer", ["json", "model"])
def test_fim_tokens_that_only_tokenizer_config_names(folder: Path, prefer: Any) -> None:
    """As in a Gemma vocabulary from before CodeGemma, where ids 67 to 70 are <unused60> to <unused63>."""
    names = {67: "<|fim_prefix|>", 68: "<|fim_middle|>", 69: "<|fim_suffix|>", 70: "<|file_separator|>"}
    if prefer == "json":
        text = (folder / "tokenizer.json").read_text()
        for token_id, name in names.items():
            text = text.replace(json.dumps(name), json.dumps(f"<unused{token_id - 7}>"))
        (folder / "tokenizer.json").write_text(text)
    else:
        data = (folder / "tokenizer.model").read_bytes()
        for token_id, name in names.items():
            same_length = f"<unused{token_id - 7}>".ljust(len(name), "_")
            data = data.replace(name.encode(), same_length.encode())
        (folder / "tokenizer.model").write_bytes(data)
    added = {str(i): {"content": name, "special": False} for i, name in names.items()}
    edit(folder / "tokenizer_config.json", lambda content: content.update(added_tokens_decoder=added))
    tokenizer = Tokenizer.load(folder, prefer=prefer)
    assert [tokenizer.control_id(name) for name in names.values()] == list(names)
    assert tokenizer.decode([67, 68], show_control=True) == "<|fim_prefix|><|fim_middle|>"
    assert not set(names) & set(tokenizer.encode("<|fim_prefix|> <unused60>"))


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"9": {"content": "<|fim_prefix|>"}}, "gives <|fim_prefix|> the id 9"),
        ({"999999": {"content": "<x>", "special": True}}, "gives <x> the id 999999"),
        ({"9" * 5000: {"content": "<x>", "special": True}}, "malformed entry"),
        ({"x": {"content": "<x>"}}, "malformed entry 'x'"),
        ({"9": {"content": 7}}, "malformed entry '9'"),
        ({"9": "<x>"}, "malformed entry '9'"),
        (["<x>"], "not an object"),
    ],
)
def test_malformed_added_tokens(folder: Path, added: Any, message: str) -> None:
    edit(folder / "tokenizer_config.json", lambda content: content.update(added_tokens_decoder=added))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(folder)
    assert message in caught.value.message


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="neither") as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"version":"1.0","model":{}}'])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_malformed_tokenizer_files(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=name):
        Tokenizer.load(folder, prefer="json" if name.endswith("json") else "model")


@pytest.mark.parametrize("content", ["{", "[]", "\ud800", "[" * 100_000])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_malformed_settings(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(TokenizerError, match=name):
        Tokenizer.load(folder)


def test_config_that_contradicts_the_vocabulary(folder: Path) -> None:
    edit(folder / "config.json", lambda content: content.update(bos_token_id=1))
    with pytest.raises(TokenizerError, match=r"bos_token_id is 1, but tokenizer.json gives <bos> the id 2"):
        Tokenizer.load(folder)


def test_config_may_list_several_end_tokens(folder: Path) -> None:
    edit(folder / "config.json", lambda content: content.update(eos_token_id=[1, 107], pad_token_id=None))
    assert Tokenizer.load(folder).eos_id == 1


def test_special_tokens_by_their_configured_names(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace('"<bos>"', '"<begin>"')
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match="no control token <bos>"):
        Tokenizer.load(folder)
    edit(folder / "tokenizer_config.json", lambda c: c.update(bos_token={"content": "<begin>"}))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.bos_id == 2
    assert 2 not in tokenizer.encode("<begin>")
    edit(folder / "tokenizer_config.json", lambda c: c.update(bos_token=7))
    with pytest.raises(TokenizerError, match="bos_token is 7"):
        Tokenizer.load(folder)


def test_tokenizers_of_other_families_are_refused(folder: Path) -> None:
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    library = tokenizers.Tokenizer(tokenizers.models.BPE({name: i for i, name in enumerate(special)}, []))
    library.add_special_tokens(special)
    library.save(str(folder / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="<0x00> is missing"):
        Tokenizer.load(folder)


def test_a_tokenizer_that_loses_text_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda content: content["normalizer"].update(content="_"))
    with pytest.raises(TokenizerError, match="does not survive"):
        Tokenizer.load(folder)


def test_names_that_are_not_unicode(folder: Path) -> None:
    data = (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(data.replace(b"<mask>", b"\xff\xfemask", 1))
    with pytest.raises(TokenizerError, match="token 4 has no proper name"):
        Tokenizer.load(folder, prefer="model").decode([4])


def test_a_panic_inside_the_library_is_an_ordinary_error(folder: Path) -> None:
    # Nothing of the added token "\n" is left when it is stripped.
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    edit(folder / "tokenizer.json", lambda content: content.update(normalizer=strip))
    with pytest.raises(TokenizerError, match="cannot encode"):
        Tokenizer.load(folder)
