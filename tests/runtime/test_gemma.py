"""The forward pass against logits that transformers and Jlama computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cg.runtime.cache import KVCache
from cg.runtime.dtypes import DType
from cg.runtime.engine import Engine
from cg.runtime.errors import MissingTensorError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.models.gemma import Gemma
from cg.runtime.ops import Activations, Backend
from cg.runtime.ops_reference import ReferenceOps
from cg.runtime.tensor import Floats, Tensor

BACKENDS: list[Backend] = ["native", "torch", "numpy"]
PARITY = 1e-4  # f32 sums in another order; logits reach 4


def all_logits(
    folder: Path, ids: np.ndarray, backend: Backend, activations: Activations = "f32", chunk: int = 10_000
) -> Floats:
    """Logits of every position, the prompt fed in chunks."""
    with Checkpoint.open(folder) as checkpoint:
        model = load_gemma(checkpoint, backend=backend, activations=activations)
        cache = KVCache(model.config, len(ids), "f32")
        logits = []
        for start in range(0, len(ids), chunk):
            part = ids[start : start + chunk].astype(np.int32)
            logits.append(model.forward(part, cache, last_only=False))
            cache.commit(part.tolist())
        return np.concatenate(logits)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["gemma-mqa", "gemma-mha-wide"])
def test_original_weights_match_transformers(golden: Path, name: str, backend: Backend) -> None:
    reference = np.load(golden / name / "hf_logits.npz")
    ours = all_logits(golden / name, reference["ids"].ravel(), backend)
    np.testing.assert_allclose(ours, reference["logits"].reshape(ours.shape), rtol=0, atol=PARITY)


@pytest.mark.parametrize("backend", BACKENDS)
def test_quantized_weights_match_transformers_on_dequantized(golden: Path, backend: Backend) -> None:
    reference = np.load(golden / "gemma-mqa-JQ4" / "logits.npz")
    ours = all_logits(golden / "gemma-mqa-JQ4", reference["ids"].ravel(), backend)
    np.testing.assert_allclose(ours, reference["hf_dequantized"].reshape(ours.shape), rtol=0, atol=PARITY)


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_int8_activations_are_closer_than_jlamas(golden: Path, backend: Backend) -> None:
    reference = np.load(golden / "gemma-mqa-JQ4" / "logits.npz")
    target = reference["hf_dequantized"]
    ours = all_logits(golden / "gemma-mqa-JQ4", reference["ids"].ravel(), backend, "int8").reshape(
        target.shape
    )
    jlama = reference["jlama_i8"].reshape(target.shape)

    def rms(x: Floats) -> float:
        return float(np.sqrt(np.mean(np.square(x - target, dtype=np.float64))))

    assert rms(ours) < 0.8 * rms(jlama)
    assert np.abs(ours - target).max() < np.abs(jlama - target).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "key"), [("gemma-mqa", "original"), ("gemma-mqa-JQ4", "jq4_f32")])
def test_greedy_ids_are_jlamas_and_transformers(golden: Path, name: str, key: str, backend: Backend) -> None:
    greedy = json.loads((golden / "gemma-mqa-JQ4" / "greedy.json").read_text())
    with Checkpoint.open(golden / name) as checkpoint:
        engine = Engine(load_gemma(checkpoint, backend=backend, activations="f32"))
        assert engine.generate(greedy["prompt"], max_tokens=len(greedy[key])) == greedy[key]


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunked_prompt_gives_the_same_logits(golden: Path, backend: Backend) -> None:
    ids = np.load(golden / "gemma-mqa" / "hf_logits.npz")["ids"].ravel()
    whole = all_logits(golden / "gemma-mqa", ids, backend)
    pieces = all_logits(golden / "gemma-mqa", ids, backend, chunk=7)
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=PARITY)


@pytest.mark.parametrize("backend", BACKENDS)
def test_last_only_is_the_last_row(golden: Path, backend: Backend) -> None:
    with Checkpoint.open(golden / "gemma-mha-wide") as checkpoint:
        model = load_gemma(checkpoint, backend=backend, activations="f32")
        ids = np.arange(2, 19, dtype=np.int32)
        every = model.forward(ids, KVCache(model.config, 20, "f32"), last_only=False)
        last = model.forward(ids, KVCache(model.config, 20, "f32"))
        assert last.shape == (1, model.config.vocab_size)
        np.testing.assert_allclose(last[0], every[-1], rtol=0, atol=PARITY)


def test_missing_and_misshapen_tensors_are_named(golden: Path) -> None:
    with Checkpoint.open(golden / "gemma-mqa") as checkpoint:
        config = load_gemma(checkpoint, backend="numpy").config
        tensors = dict(checkpoint.tensors)
        name = "model.layers.1.mlp.up_proj.weight"
        good = tensors.pop(name)
        with pytest.raises(MissingTensorError, match=name):
            Gemma(config, tensors, ReferenceOps())
        tensors[name] = Tensor(name, good.dtype, good.shape[::-1], good.data)
        with pytest.raises(MissingTensorError, match=r"has shape .* config.json asks for"):
            Gemma(config, tensors, ReferenceOps())
        tensors[name] = Tensor(name, DType.I16, good.shape, good.data)
        with pytest.raises(MissingTensorError, match="I16"):
            Gemma(config, tensors, ReferenceOps())


def test_an_untied_head_is_used(golden: Path) -> None:
    with Checkpoint.open(golden / "gemma-mha-wide") as checkpoint:
        tied = load_gemma(checkpoint, backend="numpy")
        head = tied.embed_tokens
        doubled = (head.dequantize() * 2).astype(np.float32)
        extra = Tensor("lm_head.weight", DType.F32, head.shape, doubled.view(np.uint8).reshape(-1))
        untied = Gemma(tied.config, {**checkpoint.tensors, "lm_head.weight": extra}, ReferenceOps())
        ids = np.array([2, 5, 9], np.int32)
        a = tied.forward(ids, KVCache(tied.config, 4))
        b = untied.forward(ids, KVCache(tied.config, 4))
        np.testing.assert_allclose(b, 2 * a, rtol=1e-6)
