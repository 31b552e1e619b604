"""Types chosen by what matrices lose, under a budget of bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cg.quant import QuantizeOptions, QuantizeProgress, quantize
from cg.quant.calibrated import calibrate
from cg.quant.groups import layer_groups
from cg.quant.mixed_types import choose
from cg.quant.passage_store import PassageStore
from cg.quant.report import GroupLoss, QuantizeResult
from cg.quant.verify import VerifyOptions, verify
from cg.runtime.dtypes import DType
from cg.runtime.errors import NonFiniteError, UsageError
from cg.runtime.formats.checkpoint import SINGLE_NAME, Checkpoint
from cg.runtime.loading import load_gemma

LAYERS = 6
BITS = QuantizeOptions(embed="keep", bits=5.5)


class KilledError(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture(scope="module")
def mixed(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> QuantizeResult:
    """The bundled model's layers, plainly rounded, with 5.5 bits."""
    return quantize(demo, tmp_path_factory.mktemp("mixed") / "out", BITS)


@pytest.fixture(scope="module")
def free(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> QuantizeResult:
    """The bundled model with so many bits that the embedding could have 8."""
    return quantize(demo, tmp_path_factory.mktemp("free") / "out", QuantizeOptions(bits=6.5))


def groups(*figures: tuple[int, float]) -> list[GroupLoss]:
    return [GroupLoss((str(n),), size, kld) for n, (size, kld) in enumerate(figures)]


@pytest.mark.parametrize(
    ("spare", "chosen"),
    [(0, []), (49, []), (50, [1]), (100, [1, 2]), (149, [1, 2]), (150, [0, 1]), (10_000, [0, 1, 2])],
)
def test_what_loses_most_per_weight_comes_first(spare: float, chosen: list[int]) -> None:
    """Four bits more for 200, 100 and 100 weights are 100, 50 and 50 bytes."""
    found = choose(groups((200, 0.5), (100, 0.3), (100, 0.2)), spare)
    assert [n for n, group in enumerate(found) if group.dtype is DType.I8] == chosen


def test_a_group_that_does_not_fit_is_passed_over() -> None:
    found = choose(groups((1000, 9.0), (100, 0.1)), 60)
    assert [group.dtype for group in found] == [DType.Q4, DType.I8]


def test_types_keep_to_the_budget_and_to_groups(mixed: QuantizeResult) -> None:
    quantized = [t for t in mixed.tensors if t.dtype in ("Q4", "I8")]
    bits = 8 * sum(t.bytes for t in quantized) / sum(t.parameters for t in quantized)
    assert 5.3 < bits <= 5.5
    with Checkpoint.open(mixed.folder) as checkpoint:
        dtypes = {name: t.dtype for name, t in checkpoint.tensors.items()}
        metadata = checkpoint.metadata
    for layer in range(LAYERS):
        for _, names in layer_groups(layer, LAYERS):
            assert len({dtypes[name] for name in names}) == 1
    assert dtypes["model.embed_tokens.weight"] is DType.BF16
    assert {dtypes[name] for group in mixed.losses for name in group.tensors} == {DType.Q4, DType.I8}
    assert all(dtypes[name] is group.dtype for group in mixed.losses for name in group.tensors)
    assert metadata["cg.bits"] == "5.5"
    assert metadata["cg.calibration"] == "bundled calibration text"
    assert "8-bit integers" in (mixed.folder / "README.md").read_text()


def test_it_diverges_far_less_than_its_size_costs(mixed: QuantizeResult, demo: Path, tmp_path: Path) -> None:
    options = VerifyOptions(chunks=6, holes=0, activations="f32")
    plain = quantize(demo, tmp_path / "plain", QuantizeOptions(embed="keep")).folder
    before, after = (verify(f, demo, options=options).figures.mean_kld.value for f in (plain, mixed.folder))
    assert after < 0.6 * before


def test_a_loss_is_the_divergence_with_that_group_alone(
    mixed: QuantizeResult, demo: Path, tmp_path: Path
) -> None:
    """The same by the numpy backend, from a file in which nothing else is quantized."""
    others = tuple(f"layers.{n}." for n in range(LAYERS) if n != 2)
    keep = ("norm", "embed", "mlp", "o_proj", *others)
    quantize(demo, tmp_path / "out", QuantizeOptions(keep=keep))
    with Checkpoint.open(demo) as original, Checkpoint.open(tmp_path / "out") as rounded:
        rows = calibrate(original, BITS).rows[:4, :256]
        total, count = 0.0, 0
        models = [load_gemma(c, backend="numpy", activations="f32") for c in (original, rounded)]
        for row in rows:
            logs = []
            for model in models:
                x = model.embed(row)
                for layer in range(LAYERS):
                    x = model.layer(layer, x, PassageStore(), 0)
                logits = model.logits(x[3:-1:4]).astype(np.float64)
                logs.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
            total += float((np.exp(logs[0]) * (logs[0] - logs[1])).sum())
            count += len(logs[0])
    (loss,) = (g.kld for g in mixed.losses if g.tensors[0] == "model.layers.2.self_attn.q_proj.weight")
    assert loss == pytest.approx(total / count, rel=1e-3)


def test_a_run_that_was_killed_does_not_measure_again(
    mixed: QuantizeResult, demo: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    def stop(state: QuantizeProgress) -> None:
        if state.what.startswith("layer 3"):
            raise KilledError

    def see(state: QuantizeProgress) -> None:
        if state.stage == "measuring":
            seen.append(state.what)

    with pytest.raises(KilledError):
        quantize(demo, tmp_path / "out", BITS, stop)
    result = quantize(demo, tmp_path / "out", BITS, see)
    assert any("going on" in note for note in result.notes)
    assert not any(what.startswith("layer 2") for what in seen)
    assert any(what.startswith("layer 3") for what in seen)
    assert (tmp_path / "out" / SINGLE_NAME).read_bytes() == (mixed.folder / SINGLE_NAME).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_gptq_rounds_to_both_types(demo: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(method="gptq", bits=6, calibration_tokens=2048)
    result = quantize(demo, tmp_path / "out", options)
    assert {t.dtype for t in result.tensors} == {"Q4", "I8", "BF16"}
    errors = {t.dtype: t.distortion.relative_error for t in result.tensors if t.distortion is not None}
    assert errors["I8"] is not None
    assert errors["Q4"] is not None
    assert errors["I8"] < 0.5 * errors["Q4"]
    json.loads(json.dumps(result.to_json(), allow_nan=False))


def test_an_embedding_whose_type_was_named_keeps_it(free: QuantizeResult, demo: Path, tmp_path: Path) -> None:
    result = quantize(demo, tmp_path / "out", QuantizeOptions(embed="q4", bits=6.5))
    assert all("embed" not in name for group in result.losses for name in group.tensors)
    assert any("embed" in name for group in free.losses for name in group.tensors)
    assert free.losses[-1].kld > max(group.kld for group in free.losses[:-1])


def test_a_head_of_its_own(free: QuantizeResult, demo: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(demo, source)
    with Checkpoint.open(demo) as checkpoint:
        tensors = {name: t.dequantize().reshape(t.shape) for name, t in checkpoint.tensors.items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, source / SINGLE_NAME)
    result = quantize(source, tmp_path / "out", QuantizeOptions(bits=6.5))
    klds = {group.tensors[0]: group.kld for group in result.losses}
    both = free.losses[-1].kld
    assert 0 < klds["lm_head.weight"] < both
    assert 0 < klds["model.embed_tokens.weight"] < both


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (QuantizeOptions(bits=5), "5 bits per weight"),
        (QuantizeOptions(bits=9), "9 bits per weight"),
        (QuantizeOptions(bits=float("nan")), "nan bits per weight"),
        (QuantizeOptions("i8", bits=6), "so the type is q4"),
        (QuantizeOptions(bits=6, jlama_runnable=True), "no kernels for I8"),
        (QuantizeOptions(bits=6, allow_nonfinite=True), "cannot be measured"),
        (QuantizeOptions(bits=6, calibration_tokens=0), "0 tokens to calibrate on"),
        (QuantizeOptions(bits=5.01), "leave no room for 8 bits anywhere"),
        (QuantizeOptions(bits=5.5, embed="i8"), r"takes 5\.7\d bits per weight at least"),
    ],
)
def test_impossible_budgets(options: QuantizeOptions, message: str, demo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        quantize(demo, tmp_path / "out", options)
    assert not list(tmp_path.iterdir())


def test_nan_in_a_weight(demo: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(demo, source)
    with Checkpoint.open(demo) as checkpoint:
        tensors = {name: t.dequantize().reshape(t.shape) for name, t in checkpoint.tensors.items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    save_file(tensors, source / SINGLE_NAME)
    with pytest.raises(NonFiniteError):
        quantize(source, tmp_path / "out", BITS)
    assert not (tmp_path / "out").exists()
