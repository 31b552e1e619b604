"""Middles and hidden states, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GemmaConfig as HfConfig
from transformers import GemmaForCausalLM

from cg.quant.evaluation_text import EvaluationText, read_held_out
from cg.quant.holes import cut_holes
from cg.quant.passages import Passage, cut_prompts, middle_passages
from cg.quant.statistics import TokenScores, score_tokens, summarize
from cg.quant.verify import VerifyOptions, verify
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.tokenizer import Tokenizer

TEXT = EvaluationText("test", read_held_out().text[:8000], "")
PAIRS = [("gemma-mqa-JQ4-embed", "gemma-mqa"), ("gemma-mha-wide-JQ4", "gemma-mha-wide")]


def transformers_model(folder: Path) -> Any:
    raw = json.loads((folder / "config.json").read_text())
    model: Any = GemmaForCausalLM(HfConfig(**raw | {"hidden_act": "gelu_pytorch_tanh"}))
    model = model.float().eval()
    with Checkpoint.open(folder) as checkpoint:
        state = {
            name: torch.from_numpy(t.dequantize().reshape([d for d in t.shape if d > 1]))
            for name, t in checkpoint.tensors.items()
        }
    model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]})
    return model


@torch.inference_mode()
def run(model: Any, passage: Passage) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits and hidden states at the scored positions; states of the embeddings, then of the layers."""
    states: list[np.ndarray] = []
    hooks = [
        layer.register_forward_hook(
            lambda _module, _inputs, output: states.append(
                (output[0] if isinstance(output, tuple) else output).reshape(-1, output[0].shape[-1]).numpy()
            )
        )
        for layer in model.model.layers
    ]
    result = model(torch.from_numpy(passage.ids.astype(np.int64))[None], output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    states.insert(0, result.hidden_states[0][0].numpy())
    return result.logits[0].numpy()[passage.scored], [s[passage.scored] for s in states]


@pytest.mark.parametrize(("quantized", "original"), PAIRS)
def test_middles_and_layers_are_those_of_transformers(quantized: str, original: str, golden: Path) -> None:
    base, other = golden / original, golden / quantized
    options = VerifyOptions(context=64, chunks=2, backend="numpy", activations="f32", holes=4)
    result = verify(other, base, [TEXT], options)
    tokenizer = Tokenizer.load(base)
    prompts = cut_prompts(tokenizer, cut_holes(TEXT.text, 4), 256, 24)
    stream = [tokenizer.bos_id, *tokenizer.encode(TEXT.text)]
    chunks = [[tokenizer.bos_id, *stream[start + 1 : start + 64]] for start in (0, 64)]
    passages = [*(Passage(np.array(c, np.int32), 32) for c in chunks), *middle_passages(prompts)]
    models = transformers_model(base), transformers_model(other)
    scores, differences = [], []
    for passage in passages:
        (logits, states), (other_logits, other_states) = (run(model, passage) for model in models)
        scores.append(score_tokens(logits, other_logits, passage.targets))
        differences.append(
            [
                np.linalg.norm(y - x, axis=1) / np.linalg.norm(x, axis=1)
                for x, y in zip(states, other_states, strict=True)
            ]
        )
    expected = summarize(TokenScores.concatenate(scores[2:]))
    middles = result.run.middles
    assert middles == result.run.figures[1]
    assert middles is not None
    assert middles.tokens == sum(len(p.middle_ids) for p in prompts)
    for name in ("ppl_original", "ppl_quantized", "ppl_ratio", "mean_kld"):
        assert getattr(middles, name).value == pytest.approx(getattr(expected, name).value, rel=1e-4), name
    layers = [np.concatenate(of_layer).mean() for of_layer in zip(*differences, strict=True)]
    assert result.run.layers == pytest.approx(layers, rel=1e-4)
    assert len(layers) == len(models[0].model.layers) + 1
    assert result.run.layers[-1] > 0.01
