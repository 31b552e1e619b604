"""The calibration text, and its rows of tokens."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cg.quant.calibration import MIN_CONTEXT, CalibrationText, Document, calibration_rows, read_calibration
from cg.runtime.errors import UsageError
from cg.runtime.prompts.fim import FimTokens
from cg.runtime.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
DATA = ROOT / "quant" / "data"
DEMO = ROOT / "runtime" / "demo"
TOKENIZER = Tokenizer.load(DEMO)
FIM = FimTokens.from_tokenizer(TOKENIZER)
EOS, BOS = 1, 2
CONTEXT = 256
BUNDLED = read_calibration()
EVERYTHING = 1 << 30


def text_of(*documents: str) -> CalibrationText:
    named = tuple(Document(f"file{number}.py", text) for number, text in enumerate(documents))
    return CalibrationText("some text", named, "")


def code(lines: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    return "".join(f"value_{rng.randrange(999)} = call({rng.randrange(10**6)})\n" for _ in range(lines))


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    rows = calibration_rows(BUNDLED, TOKENIZER, CONTEXT, EVERYTHING, seed=1)
    assert rows.dtype == np.int32
    assert rows.shape[1] == CONTEXT
    return [list(map(int, row)) for row in rows]


def samples(row: list[int]) -> Iterator[list[int]]:
    """The row's samples without BOS, each with the token that ends it, if that is in the row."""
    sample: list[int] = []
    for token in row[1:]:
        sample.append(token)
        if token in (FIM.separator, EOS):
            yield sample
            sample = []
    if sample:
        yield sample


def is_whole(sample: list[int]) -> bool:
    return FIM.middle in sample and sample[-1] in (FIM.separator, EOS)


def parts(sample: list[int]) -> tuple[str, str, str, str, str]:
    """Order, path line, prefix, suffix and middle of a fill-in-the-middle sample."""
    first = min(sample.index(FIM.prefix), sample.index(FIM.suffix))
    second = max(sample.index(FIM.prefix), sample.index(FIM.suffix))
    middle = sample.index(FIM.middle)
    order = "psm" if sample[first] == FIM.prefix else "spm"
    path, one, two, inner = (
        TOKENIZER.decode(ids)
        for ids in (sample[:first], sample[first:second], sample[second:middle], sample[middle:])
    )
    return (order, path, one, two, inner) if order == "psm" else (order, path, two, one, inner)


def test_bundled_text_is_the_one_that_its_readme_describes() -> None:
    data = (DATA / "calibration" / "documents.jsonl").read_bytes()
    assert hashlib.sha256(data).hexdigest() == BUNDLED.sha256
    readme = (DATA / "README.md").read_text("utf-8")
    assert f"`{BUNDLED.sha256}`, {len(data):,} bytes" in readme
    assert f"{len(BUNDLED.documents)} excerpts" in readme
    assert 250_000 < len(BUNDLED.text) < 400_000
    assert "\r" not in BUNDLED.text


def test_about_half_of_the_bundled_text_is_python() -> None:
    sizes: dict[str, int] = {}
    for document in BUNDLED.documents:
        kind = document.path.rpartition(".")[2]
        sizes[kind] = sizes.get(kind, 0) + len(document.text)
        assert len(document.text) < 8000, document.path
    assert 0.4 < sizes["py"] / sum(sizes.values()) < 0.6
    assert {"js", "ts", "java", "c", "cc", "go", "rs", "sh", "bash", "md", "json", "yml"} <= set(sizes)


def test_every_row_is_full_and_begins_with_bos_and_only_begins(rows: list[list[int]]) -> None:
    assert all(row[0] == BOS for row in rows)
    assert all(BOS not in row[1:] for row in rows)
    assert all(TOKENIZER.pad_id not in row for row in rows)
    encoded = sum(len(TOKENIZER.encode(document.text)) for document in BUNDLED.documents)
    assert 0.9 * encoded < len(rows) * CONTEXT < 1.05 * encoded  # little is lost, nothing used twice


def test_every_other_row_is_fill_in_the_middle(rows: list[list[int]]) -> None:
    control = {FIM.prefix, FIM.middle, FIM.suffix}
    assert not any(control & set(row) for row in rows[::2])
    assert all(control <= set(row) for row in rows[1::2])


def test_samples_are_what_cg_complete_sends_and_the_answer(rows: list[list[int]]) -> None:
    texts = [document.text for document in BUNDLED.documents]
    paths = {"", *(document.path + "\n" for document in BUNDLED.documents)}
    whole = [sample for row in rows[1::2] for sample in samples(row) if is_whole(sample)]
    assert len(whole) >= len(rows) // 2
    for sample in whole:
        _, path, prefix, suffix, middle = parts(sample)
        assert path in paths
        assert middle
        assert any(prefix + middle + suffix in text for text in texts)


def test_samples_vary(rows: list[list[int]]) -> None:
    found = [parts(sample) for row in rows[1::2] for sample in samples(row) if is_whole(sample)]
    orders = [order for order, *_ in found]
    named = [bool(path) for _, path, *_ in found]
    middles = [len(middle) for *_, middle in found]
    assert 0.6 < orders.count("psm") / len(orders) < 0.9
    assert 0.5 < sum(named) / len(named) < 0.9
    assert min(middles) < 5
    assert max(middles) > 150
    ends = {sample[-1] for row in rows[1::2] for sample in samples(row) if is_whole(sample)}
    assert ends == {FIM.separator, EOS}


def test_plain_rows_have_path_lines_and_documents_in_pieces(rows: list[list[int]]) -> None:
    texts = [document.text for document in BUNDLED.documents]
    paths = [document.path + "\n" for document in BUNDLED.documents]
    named = 0
    for row in rows[::2]:
        for sample in samples(row):
            text = TOKENIZER.decode(sample).removesuffix("\ufffd")
            path = next((path for path in paths if text.startswith(path)), "")
            named += bool(path)
            body = text.removeprefix(path)
            assert any(body.rstrip("\ufffd") in found for found in texts) or any(
                path.startswith(text) for path in paths
            )
    assert named > len(rows) // 4


def test_the_same_arguments_give_the_same_rows() -> None:
    first, again, other = (calibration_rows(BUNDLED, TOKENIZER, 64, 2048, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert first.shape == other.shape == (32, 64)
    assert not np.array_equal(first, other)


def test_rows_do_not_depend_on_the_limit() -> None:
    few, more = (calibration_rows(BUNDLED, TOKENIZER, 128, limit, 0) for limit in (1000, 2000))
    assert (len(few), len(more)) == (7, 15)
    np.testing.assert_array_equal(more[:7], few)


def test_a_golden_row() -> None:
    """By hand: one letter a token, d e f ▁ = 484 474 488 473, \\n = 108; all of the text, cut to the row."""
    letters = Tokenizer.load(ROOT / "tests" / "golden" / "gemma-mqa")
    row = calibration_rows(text_of("def \n" * 40), letters, MIN_CONTEXT, MIN_CONTEXT, 2)[0].tolist()
    line = [484, 474, 488, 473, 108]
    path = letters.encode("file0.py\n")
    without, named = [BOS, *line * 7], [BOS, *path, *line * 7]
    assert row in (without[:MIN_CONTEXT], named[:MIN_CONTEXT])


def test_a_short_text_gives_the_rows_that_it_has() -> None:
    assert len(calibration_rows(text_of(code(40)), TOKENIZER, MIN_CONTEXT, EVERYTHING, 0)) > 5
    assert len(calibration_rows(text_of(*["x = 1\n"] * 40), TOKENIZER, MIN_CONTEXT, EVERYTHING, 0)) > 2
    assert len(calibration_rows(text_of(code(40)), TOKENIZER, MIN_CONTEXT, MIN_CONTEXT, 0)) == 1


@pytest.mark.parametrize("texts", [["x = 1\n"], [""], ["", " \n\n"], []])
def test_too_short_a_text(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="some text: too few tokens for one row of 64") as caught:
        calibration_rows(text_of(*texts), TOKENIZER, 64, EVERYTHING, 0)
    assert caught.value.hint


@pytest.mark.parametrize(("context", "limit"), [(MIN_CONTEXT - 1, 10**6), (0, 10**6), (64, 63), (64, -1)])
def test_impossible_settings(context: int, limit: int) -> None:
    with pytest.raises(UsageError):
        calibration_rows(text_of(code(100)), TOKENIZER, context, limit, 0)


def test_one_endless_line_is_cut() -> None:
    table = ", ".join(map(str, range(5000)))
    rows = calibration_rows(text_of(table), TOKENIZER, 128, EVERYTHING, 0)
    assert len(rows) > 0.5 * len(TOKENIZER.encode(table)) / 128


def test_models_without_the_tokens_have_plain_rows(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        text = (DEMO / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace("<|fim_suffix|>", "<|other|>"), "utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    rows = calibration_rows(text_of(*map(code, (9, 9, 9, 9))), tokenizer, 64, EVERYTHING, 0)
    assert len(rows) > 3
    assert not {FIM.prefix, FIM.middle, FIM.separator} & set(rows.flatten().tolist())
    assert EOS in rows


PIECES = ["<bos>", "<eos>", "<|fim_middle|>", "<|file_separator|>", "x", "é🙂", " ", "\n", "▁"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES)).map("".join), min_size=1, max_size=4), st.integers(0, 3))
def test_text_never_becomes_a_control_token(texts: list[str], seed: int) -> None:
    text = text_of(code(12), *texts)
    rows = calibration_rows(text, TOKENIZER, 64, EVERYTHING, seed)
    for number, row in enumerate(rows.tolist()):
        assert row[0] == BOS
        assert BOS not in row[1:]
        middles = row.count(FIM.middle)
        assert row.count(FIM.prefix) == row.count(FIM.suffix) == middles
        assert bool(middles) <= bool(number % 2)


def test_a_file_is_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_bytes("x = 'é'\r\n".encode())
    (tmp_path / "b.py").write_bytes(b"y = 1")
    monkeypatch.chdir(tmp_path)
    text = read_calibration([Path("pkg/a.py"), tmp_path / "b.py", Path("pkg/../b.py")])
    assert [document.path for document in text.documents] == ["pkg/a.py", "b.py", "b.py"]
    assert [document.text for document in text.documents] == ["x = 'é'\r\n", "y = 1", "y = 1"]
    lines = [json.dumps({"path": d.path, "text": d.text}) + "\n" for d in text.documents]
    assert text.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert "a.py" in text.name
    assert text.text == "x = 'é'\r\n\ny = 1\ny = 1"


def test_any_file_name_is_a_path_line(tmp_path: Path) -> None:
    file = tmp_path / "a\nb\udcff.py"
    file.write_text(code(20))
    text = read_calibration([file])
    assert text.documents[0].path == "a?b?.py"
    assert len(calibration_rows(text, TOKENIZER, 64, EVERYTHING, 0)) > 2


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes("é".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.py is not UTF-8: .* at byte 0"):
        read_calibration([tmp_path / "latin.py"])
    for missing in (tmp_path / "none.py", tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            read_calibration([missing])
