"""Verification against transformers, and of itself."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GemmaConfig as HfConfig
from transformers import GemmaForCausalLM

from cg.quant import streaming
from cg.quant.evaluation_text import Chunks, EvaluationText, cut_chunks, read_held_out
from cg.quant.statistics import Estimate, score_tokens, summarize
from cg.quant.verify import Verification, VerifyOptions, verify
from cg.runtime.dtypes import DType
from cg.runtime.errors import (
    CheckpointError,
    ContextLengthError,
    NonFiniteError,
    TokenizerError,
    UsageError,
)
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.ops import Backend
from cg.runtime.tokenizer import Tokenizer

OPTIONS = VerifyOptions(context=64, chunks=3, backend="numpy", activations="f32", holes=0)


def text_of() -> EvaluationText:
    return EvaluationText("test", read_held_out().text[:4000], "")


def run(quantized: Path, original: Path, options: VerifyOptions = OPTIONS, **more: Any) -> Verification:
    return verify(quantized, original, [text_of()], options, **more)


def chunks_of(folder: Path) -> Chunks:
    tokenizer = Tokenizer.load(folder)
    return cut_chunks(tokenizer.encode(text_of().text), tokenizer.bos_id, 64, 3)


@torch.inference_mode()
def transformers_logits(folder: Path) -> np.ndarray:
    """Logits that predict the scored tokens, ``[tokens, vocab]``, by transformers in float32."""
    raw = json.loads((folder / "config.json").read_text())
    model: Any = GemmaForCausalLM(HfConfig(**raw | {"hidden_act": "gelu_pytorch_tanh"}))
    model = model.float().eval()
    with Checkpoint.open(folder) as checkpoint:
        state = {
            name: torch.from_numpy(t.dequantize().reshape([d for d in t.shape if d > 1]))
            for name, t in checkpoint.tensors.items()
        }
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    chunks = chunks_of(folder)
    logits = model(torch.from_numpy(chunks.ids.astype(np.int64))).logits
    scored: np.ndarray = logits[:, chunks.first : -1].reshape(-1, raw["vocab_size"]).numpy()
    return scored


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("demo", "numpy"),
        ("demo", "native"),
        ("demo", "torch"),
        ("gemma-mqa", "numpy"),
        ("gemma-mha-wide", "numpy"),
    ],
)
def test_perplexity_of_an_original_is_that_of_transformers(
    name: str, backend: Backend, golden: Path, demo: Path
) -> None:
    folder = demo if name == "demo" else golden / name
    targets = chunks_of(folder).ids[:, 33:].ravel()
    logits = torch.from_numpy(transformers_logits(folder))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets.astype(np.int64)))
    figures = run(folder, folder, replace(OPTIONS, reference_backend=backend)).figures
    assert figures.tokens == len(targets) == 3 * 31
    assert figures.ppl_original.value == pytest.approx(math.exp(loss.item()), rel=1e-3)


@pytest.mark.parametrize(
    ("quantized", "original"),
    [("gemma-mqa-JQ4-embed", "gemma-mqa"), ("gemma-mha-wide-JQ4", "gemma-mha-wide")],
)
def test_figures_are_those_of_the_dequantized_weights(quantized: str, original: str, golden: Path) -> None:
    base, other = golden / original, golden / quantized
    expected = summarize(
        score_tokens(
            transformers_logits(base), transformers_logits(other), chunks_of(base).ids[:, 33:].ravel()
        )
    )
    figures = run(other, base).figures
    for name in ("ppl_original", "ppl_quantized", "ppl_ratio", "mean_kld"):
        assert getattr(figures, name).value == pytest.approx(getattr(expected, name).value, rel=1e-4), name
        assert getattr(figures, name).error == pytest.approx(getattr(expected, name).error, rel=1e-3), name
    assert figures.same_top.value == pytest.approx(expected.same_top.value, abs=1.5 / figures.tokens)
    assert figures.mean_kld.value > 0.01


@pytest.mark.parametrize("name", ["gemma-mqa", "gemma-mqa-JQ4"])
def test_a_model_against_itself_loses_nothing(name: str, golden: Path) -> None:
    figures = run(golden / name, golden / name).figures
    assert figures.mean_kld == Estimate(0.0, 0.0)
    assert figures.ppl_ratio == Estimate(1.0, 0.0)
    assert figures.same_top.value == 1.0


def test_backends_agree(golden: Path) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    numpy, torch_ = (run(*pair, replace(OPTIONS, backend=b)) for b in ("numpy", "torch"))
    assert torch_.run.computed.backend == "torch"
    assert torch_.figures.ppl_ratio.value == pytest.approx(numpy.figures.ppl_ratio.value, rel=1e-5)
    assert torch_.figures.mean_kld.value == pytest.approx(numpy.figures.mean_kld.value, rel=1e-4)


def test_int8_activations_cost_something_and_only_the_quantized_model(golden: Path) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa-JQ4"
    result = run(*pair, replace(OPTIONS, activations="int8"))
    assert result.run.computed.activations == "int8"
    assert 0 < result.figures.mean_kld.value < 0.01
    assert result.figures.ppl_original == run(*pair).figures.ppl_original


def test_batches_of_chunks_change_nothing(golden: Path) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    one_at_a_time = run(*pair, replace(OPTIONS, hidden_bytes=1))
    assert one_at_a_time.runs == run(*pair).runs


def test_slabs_of_logits_change_nothing(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    whole = run(*pair).figures
    monkeypatch.setattr(streaming, "_LOGITS_BYTES", 4 * 640 * 7)
    slabs = run(*pair).figures
    assert slabs.tokens == whole.tokens
    assert slabs.mean_kld.value == pytest.approx(whole.mean_kld.value, rel=1e-4)


def test_defaults_and_circumstances(golden: Path) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    text = EvaluationText("mine", "x = 1\n" * 200, "abc")
    result = verify(*pair, [text], VerifyOptions(backend="numpy", chunks=1, holes=0))
    (section,) = result.sections
    assert (section.kind, section.task, section.title) == ("text", "text", "text")
    assert (section.context, section.passages, result.figures.tokens) == (512, 1, 255)
    assert (section.text, section.text_sha256) == ("mine", "abc")
    assert (result.quantized, result.original) == pair
    assert (result.reference.backend, result.reference.activations) == ("numpy", "f32")
    assert (result.run.computed.backend, result.run.computed.activations) == ("numpy", "f32")
    assert result.run.agreement is None
    assert result.run.middles is None
    assert result.parts == ()
    assert result.notes == ()
    for folder, size in zip(pair, (result.quantized_bytes, result.original_bytes), strict=True):
        assert size == (folder / "model.safetensors").stat().st_size
    whole = verify(*pair, [text], VerifyOptions(backend="numpy", chunks=None, context=200, holes=0))
    assert whole.sections[0].passages == (1 + len(Tokenizer.load(pair[1]).encode(text.text))) // 200 == 6


def test_several_texts_have_figures_of_their_own_and_together(golden: Path) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    python = read_held_out().text
    texts = [EvaluationText(n, python[i : i + 3000], n, n) for n, i in (("one", 0), ("two", 5000))]
    both = verify(*pair, texts, OPTIONS)
    assert [s.title for s in both.sections] == ["one", "two"]
    for text, figures in zip(texts, both.run.figures, strict=True):
        alone = verify(*pair, [text], OPTIONS)
        assert alone.run.overall == alone.run.figures[0] == figures
    first, second = both.run.figures
    assert first != second
    assert both.figures.tokens == first.tokens + second.tokens
    mean = (first.mean_kld.value + second.mean_kld.value) / 2
    assert both.figures.mean_kld.value == pytest.approx(mean, rel=1e-12)


def test_both_activations_are_two_runs_and_their_difference(golden: Path) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    both = run(*pair, replace(OPTIONS, activations="both"))
    int8, f32 = both.runs
    assert int8 == run(*pair, replace(OPTIONS, activations="int8")).run
    assert f32 == run(*pair).run
    (parts,) = both.parts
    assert parts.kld_of_weights == f32.overall.mean_kld
    assert parts.ln_ppl_ratio_of_weights == f32.overall.ln_ppl_ratio
    added = int8.overall.mean_kld.value - f32.overall.mean_kld.value
    assert parts.kld_added.value == pytest.approx(added, rel=1e-9)
    # The same tokens, the same weights: much of the uncertainty is common to both.
    assert 0 < parts.kld_added.error < f32.overall.mean_kld.error
    added = int8.overall.ln_ppl_ratio.value - f32.overall.ln_ppl_ratio.value
    assert parts.ln_ppl_ratio_added.value == pytest.approx(added, rel=1e-9)
    assert run(*pair).parts == ()


def test_the_original_can_be_computed_by_another_backend(golden: Path) -> None:
    pair = golden / "gemma-mqa-JQ4", golden / "gemma-mqa"
    result = run(*pair, replace(OPTIONS, reference_backend="torch"))
    assert (result.reference.backend, result.run.computed.backend) == ("torch", "numpy")
    figures, expected = result.figures, run(*pair).figures
    assert figures.ppl_quantized == expected.ppl_quantized
    assert figures.ppl_original != expected.ppl_original
    assert figures.ppl_original.value == pytest.approx(expected.ppl_original.value, rel=1e-5)


def test_progress_counts_up_to_the_end(golden: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    run(golden / "gemma-mqa-JQ4", golden / "gemma-mqa", progress=lambda *step: seen.append(step))
    done = [step[1] for step in seen]
    assert done == sorted(set(done))
    assert {total for _, _, total in seen} == {done[-1]}
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    names = [f"layer {i} of 3, {side}" for i in (1, 2, 3) for side in ("original", "quantized")]
    assert stages == ["tensors", *names, "logits"]  # both models stand at the same layer


def test_an_interrupt_from_progress_comes_through(golden: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(golden / "gemma-mqa-JQ4", golden / "gemma-mqa", progress=interrupt)


def test_every_tensor_is_released_after_use(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released: set[tuple[str, int, int]] = set()
    before_logits: set[tuple[str, int, int]] = set()
    monkeypatch.setattr(SafetensorsFile, "release", lambda f, a, b: released.add((f.path.parent.name, a, b)))

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "tensors":
            released.clear()  # what comparing them released
        if stage == "logits" and not before_logits:
            before_logits.update(released)

    run(golden / "gemma-mqa-JQ4", golden / "gemma-mqa", progress=watch)
    for name in ("gemma-mqa-JQ4", "gemma-mqa"):
        with Checkpoint.open(golden / name) as checkpoint:
            for entry in checkpoint.shards[0].header.entries:
                assert (name, entry.begin, entry.end) in released
                if entry.name.startswith("model.layers."):  # scales included
                    assert (name, entry.begin, entry.end) in before_logits


def copy(source: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(source, target)
    raw = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(raw | config))
    return target


def test_different_models_are_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"was not made from .*hidden_size 96 instead of 256"):
        run(golden / "gemma-mha-wide-JQ4", golden / "gemma-mqa")
    with pytest.raises(CheckpointError, match=r"rope_theta 500.0 instead of 10000.0$"):
        run(copy(golden / "gemma-mqa-JQ4", tmp_path / "rope", rope_theta=500.0), golden / "gemma-mqa")


def test_different_tokens_are_refused(golden: Path, tmp_path: Path) -> None:
    other = copy(golden / "gemma-mqa-JQ4", tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    x, y = next(k for k in ids if k == "<0x78>"), next(k for k in ids if k == "<0x79>")
    ids[x], ids[y] = ids[y], ids[x]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TokenizerError, match="different tokens"):
        run(other, golden / "gemma-mqa")


def test_a_context_longer_than_the_models(golden: Path, tmp_path: Path) -> None:
    short = copy(golden / "gemma-mqa-JQ4", tmp_path / "short", max_position_embeddings=100)
    with pytest.raises(ContextLengthError, match="101 tokens: these models take at most 100"):
        run(short, golden / "gemma-mqa", replace(OPTIONS, context=101))
    assert run(short, golden / "gemma-mqa", replace(OPTIONS, context=None)).sections[0].context == 100


def test_a_text_too_short_for_a_chunk(golden: Path) -> None:
    with pytest.raises(UsageError, match="too few for one chunk of 64"):
        verify(golden / "gemma-mqa-JQ4", golden / "gemma-mqa", [EvaluationText("", "x = 1", "")], OPTIONS)
    with pytest.raises(UsageError, match="0 chunks"):
        run(golden / "gemma-mqa-JQ4", golden / "gemma-mqa", replace(OPTIONS, chunks=0))


@pytest.mark.parametrize(
    ("tensor", "where"),
    [
        ("model.layers.1.mlp.up_proj.weight", "after layer 2"),
        ("model.norm.weight", "quantized model's output"),
    ],
)
def test_a_damaged_model_is_named(tensor: str, where: str, golden: Path, tmp_path: Path) -> None:
    bad = copy(golden / "gemma-mqa", tmp_path / "bad")
    with Checkpoint.open(bad) as checkpoint:
        assert checkpoint.tensors[tensor].dtype is DType.BF16
        entry = next(e for e in checkpoint.shards[0].header.entries if e.name == tensor)
    with (bad / "model.safetensors").open("r+b") as file:
        file.seek(entry.begin)
        file.write(b"\xc0\x7f")  # a bf16 NaN
    with pytest.raises(NonFiniteError, match=where):
        run(bad, golden / "gemma-mqa")
