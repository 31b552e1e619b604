"""Exported files in llama.cpp itself, through llama-cpp-python, which is compiled when it is installed.

pip install llama-cpp-python==0.3.36
python -m pytest -m peers
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cg.quant import quantize
from cg.quant.evaluation_text import read_held_out
from cg.quant.export import export_gguf, export_safetensors, import_gguf
from cg.quant.export.gguf_file import GgufFile
from cg.runtime import ops_reference
from cg.runtime.cache import KVCache
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.ops import Activations
from cg.runtime.tensor import Floats
from cg.runtime.tokenizer import Tokenizer

pytestmark = pytest.mark.peers

TOKENS = 160
F32 = 0  # ggml's number for it


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> Any:
    """The package, only when these tests run: nobody else is told that it is missing."""
    return pytest.importorskip("llama_cpp")


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A model in llama.cpp, with nothing rounded that does not have to be."""
    from llama_cpp import Llama

    model = Llama(
        str(file), n_ctx=256, n_threads=2, logits_all=True, verbose=False, flash_attn=False,
        type_k=F32, type_v=F32,
    )  # fmt: skip
    try:
        yield model
    finally:
        model.close()


def their_logits(file: Path, ids: list[int]) -> Floats:
    with opened(file) as model:
        model.eval(ids)
        return np.array(model.scores[: len(ids)], np.float32)


def our_logits(folder: Path, ids: list[int], activations: Activations) -> Floats:
    with Checkpoint.open(folder) as checkpoint:
        model = load_gemma(checkpoint, backend="numpy", activations=activations)
        cache = KVCache(model.config, len(ids), "f32")
        return model.forward(np.array(ids, np.int32), cache, last_only=False)


def rms(difference: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


def halved(x: Floats) -> Floats:
    return x.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def folder(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("peers") / "demo-q4"
    quantize(demo, target)
    return target


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return export_gguf(folder, folder.with_name("demo-q4.gguf")).output


@pytest.fixture(scope="module")
def ids(demo: Path) -> list[int]:
    """Code, as the model was trained on."""
    tokenizer = Tokenizer.load(demo)
    return [tokenizer.bos_id, *tokenizer.encode(read_held_out().text)[: TOKENS - 1]]


def test_text_becomes_the_same_ids(demo: Path, file: Path) -> None:
    tokenizer = Tokenizer.load(demo)
    with opened(file) as model:
        for text in (
            read_held_out().text[:20_000],
            " lead\n\n\n\t\tx  y   z é漢字🙂 \x7f\r\n" + " " * 40 + "\n" * 40,
            "a <|fim_prefix|> b <|fim_middle|><|fim_suffix|> <|file_separator|> <start_of_turn>",
        ):
            assert model.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text)
        assert model.tokenize(b"x", special=False)[0] == tokenizer.bos_id


def test_it_knows_the_special_tokens(llama_cpp: Any, demo: Path, file: Path) -> None:
    tokenizer = Tokenizer.load(demo)
    with opened(file) as model:
        vocab = llama_cpp.llama_model_get_vocab(model.model)
        for name, token in {
            "fim_pre": "<|fim_prefix|>",
            "fim_suf": "<|fim_suffix|>",
            "fim_mid": "<|fim_middle|>",
            "fim_sep": "<|file_separator|>",
            "eot": "<end_of_turn>",
            "bos": "<bos>",
            "eos": "<eos>",
            "pad": "<pad>",
        }.items():
            assert getattr(llama_cpp, f"llama_vocab_{name}")(vocab) == tokenizer.control_id(token), name


def test_floats_give_the_same_logits(
    folder: Path, ids: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With float32 weights llama.cpp rounds in one place: it looks the GELU up in a table from f16 to f16.

    cg with that table is nearer to it than what the table changes. Sums in another order round some of the
    inputs the other way, so the two are not the same.
    """
    floats = export_safetensors(folder, tmp_path / "f32", dtype="f32").output
    theirs = their_logits(export_gguf(floats, tmp_path / "f32.gguf").output, ids)
    exact = our_logits(folder, ids, "f32")
    geglu = ops_reference.geglu

    def with_table(gate: Floats, up: Floats) -> Floats:
        return halved(geglu(halved(gate), np.ones_like(up))) * up

    monkeypatch.setattr(ops_reference, "geglu", with_table)
    alike = our_logits(folder, ids, "f32")
    assert rms(theirs - alike) < 0.5 * rms(alike - exact)
    np.testing.assert_allclose(theirs, exact, rtol=0, atol=2 * float(np.abs(alike - exact).max()))


def test_q4_differs_by_its_int8_activations_only(folder: Path, file: Path, ids: list[int]) -> None:
    """llama.cpp rounds activations to int8 per block of 32 before it multiplies.

    cg does the same on request, with scales in f32 instead of f16. So what that costs is known without
    llama.cpp: the distance of cg's logits with int8 and with float32 activations. llama.cpp's may be as far
    from the latter; a quarter more is allowed for its f16 scales and for chance.
    """
    exact = our_logits(folder, ids, "f32")
    expected = rms(our_logits(folder, ids, "int8") - exact)
    found = rms(their_logits(file, ids) - exact)
    assert 0 < found <= 1.25 * expected, (found, expected)


def test_greedy_decoding_gives_the_same_ids(demo: Path, folder: Path, file: Path) -> None:
    from cg.runtime import load

    with load(folder) as ours, opened(file) as theirs:
        completion = ours.complete("def add(a, b):\n    return", "\n\n\nprint(add(1, 2))\n", max_tokens=24)
        tokenizer = ours.tokenizer
        prompt = [
            tokenizer.bos_id,
            tokenizer.control_id("<|fim_prefix|>"),
            *tokenizer.encode("def add(a, b):\n    return"),
            tokenizer.control_id("<|fim_suffix|>"),
            *tokenizer.encode("\n\n\nprint(add(1, 2))\n"),
            tokenizer.control_id("<|fim_middle|>"),
        ]
        found: list[int] = []
        for token in theirs.generate(prompt, temp=0.0, repeat_penalty=1.0):
            if token in ours.stop_ids or len(found) == 24:
                break
            found.append(token)
    assert found == list(completion.ids)
    assert found


def _quantize(source: Path, out: Path, kind: int, *, pure: bool) -> Path:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure = kind, 2, pure
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params) == 0
    return out


def test_its_own_quantizer_writes_the_same_blocks(
    llama_cpp: Any, demo: Path, file: Path, tmp_path: Path
) -> None:
    original = export_gguf(demo, tmp_path / "bf16.gguf").output
    theirs = _quantize(original, tmp_path / "q4_0.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, pure=True)
    with GgufFile(file) as ours, GgufFile(theirs) as written:
        assert ours.tensors.keys() == written.tensors.keys()
        for name, tensor in ours.tensors.items():
            assert written.tensors[name].type == tensor.type, name
            np.testing.assert_array_equal(written.tensors[name].data, tensor.data)


def test_its_files_can_be_scored(llama_cpp: Any, demo: Path, ids: list[int], tmp_path: Path) -> None:
    original = export_gguf(demo, tmp_path / "bf16.gguf").output
    kind = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    theirs = _quantize(original, tmp_path / "q4_k_m.gguf", kind, pure=False)
    result = import_gguf(theirs, tmp_path / "back", dequantize="f32")
    assert any(name.endswith("from Q4_K") for name in result.types)
    ours = our_logits(result.output, ids, "f32")
    # Activations are rounded per block of 256 here; the weights' rounding is a multiple of that.
    assert rms(their_logits(theirs, ids) - ours) < 0.5 * rms(ours - our_logits(demo, ids, "f32"))
