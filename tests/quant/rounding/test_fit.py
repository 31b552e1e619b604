"""Fitting blocks: the kernel against numpy to the bit, and both against what they are meant to minimize."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cg.quant.rounding.fit import BlockCost, Fitter, Levels, fit_native, fit_reference
from cg.quant.schemes import encode_reference
from cg.runtime import ops_native
from cg.runtime.dtypes import DType
from cg.runtime.errors import UsageError
from cg.runtime.tensor import Floats, Tensor

BLOCK = 32
needs_native = pytest.mark.skipif(ops_native.import_problem() is not None, reason="nothing was compiled")


def factor(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random upper triangular factor with as much beside its diagonal as activations have."""
    inputs = rng.standard_normal((48, BLOCK)) + rng.standard_normal((48, 1))
    lower: NDArray[np.float64] = np.linalg.cholesky((inputs.T @ inputs)[::-1, ::-1]).astype(np.float64)
    return lower[::-1, ::-1]


def cost_of(rng: np.random.Generator, *, diagonal: bool) -> BlockCost:
    return BlockCost.from_weights(rng.random(BLOCK) + 0.1) if diagonal else BlockCost.from_factor(factor(rng))


def results(rows: int) -> tuple[NDArray[np.int8], Floats, Floats]:
    return np.full((rows, BLOCK), 99, np.int8), np.full(rows, 9, np.float32), np.full(rows, 9, np.float32)


@needs_native
@pytest.mark.parametrize("isa", [isa for isa, supported in ops_native.supported_isas() if supported])
@pytest.mark.parametrize("dtype", [DType.Q4, DType.I8])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_the_kernel_is_numpy_to_the_bit(
    isa: str, dtype: DType, diagonal: bool, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CG_FORCE_ISA", isa)
    rng = np.random.default_rng(7)
    for rows in (1, 8, 21):
        targets = rng.standard_normal((rows, BLOCK)).astype(np.float32) * np.float32(0.02)
        targets[0, 3:] = 0
        targets[-1] = np.round(targets[-1] * 50) / 50  # ties, and blocks of zeros
        cost = cost_of(rng, diagonal=diagonal)
        expected, got = results(rows), results(rows)
        fit_reference(targets, cost, Levels.of(dtype), half, *expected)
        fit_native(targets, cost, Levels.of(dtype), half, *got)
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b)


@needs_native
@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=BLOCK, max_size=BLOCK))
def test_any_finite_block(values: list[float]) -> None:
    targets = np.array([values], np.float32)
    cost = BlockCost.from_weights(np.ones(BLOCK))
    for half in (False, True):
        expected, got = results(1), results(1)
        fit_reference(targets, cost, Levels.of(DType.Q4), half, *expected)
        fit_native(targets, cost, Levels.of(DType.Q4), half, *got)
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b)
        assert got[0].min() >= -8
        assert got[0].max() <= 7
        assert np.isfinite(got[1]).all()


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_loss_is_what_the_cost_says(diagonal: bool) -> None:
    rng = np.random.default_rng(1)
    targets = rng.standard_normal((40, BLOCK)).astype(np.float32)
    cost = cost_of(rng, diagonal=diagonal)
    integers, scales, losses = results(40)
    fit_reference(targets, cost, Levels.of(DType.Q4), False, integers, scales, losses)
    upper = cost.coupling.astype(np.float64) * cost.root
    lost = (targets - integers * scales[:, None].astype(np.float64)) @ upper
    np.testing.assert_allclose(losses, (lost**2).sum(axis=1), rtol=1e-4)  # float32 sums of 32


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("dtype", "better"), [(DType.Q4, 0.9), (DType.I8, 1.0)])
def test_it_costs_less_than_jlamas_rounding(diagonal: bool, dtype: DType, better: float) -> None:
    rng = np.random.default_rng(2)
    targets = rng.standard_normal((200, BLOCK)).astype(np.float32)
    cost = cost_of(rng, diagonal=diagonal)
    integers, scales = results(200)[:2]
    Fitter(Levels.of(dtype), half=False)(targets, cost, integers, scales)
    source = Tensor("w", DType.F32, targets.shape, targets.view(np.uint8).reshape(-1))
    jlama = encode_reference(source, dtype)
    rounded = Tensor("w", dtype, targets.shape, jlama.data, jlama.scales).dequantize()
    upper = cost.coupling.astype(np.float64) * cost.root

    def loss(values: Floats) -> float:
        return float((((targets - values) @ upper) ** 2).sum())

    assert loss(integers * scales[:, None]) < better * loss(rounded)


@pytest.mark.parametrize("size", [1.0, 1e-5, 1e-7, 1e6])
def test_half_scales_are_those_of_f16(size: float) -> None:
    rng = np.random.default_rng(3)
    targets = (rng.standard_normal((100, BLOCK)) * size).astype(np.float32)
    integers, scales = results(100)[:2]
    Fitter(Levels.of(DType.Q4), half=True)(targets, cost_of(rng, diagonal=False), integers, scales)
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert np.count_nonzero(scales) == (100 if size > 1e-7 else np.count_nonzero(scales))


def test_half_scales_are_the_nearest() -> None:
    peak = np.float32(0.1234567)
    targets = np.zeros((1, BLOCK), np.float32)
    targets[0, 0] = -8 * peak
    levels = Levels(-8, 7, np.array([-1 / 8], np.float32))
    integers, scales = results(1)[:2]
    Fitter(levels, half=True)(targets, BlockCost.from_weights(np.ones(BLOCK)), integers, scales)
    assert scales[0] in (np.float32(np.float16(peak)), -np.float32(np.float16(peak)))


def test_columns_of_wider_arrays() -> None:
    rng = np.random.default_rng(4)
    wide = rng.standard_normal((9, 3 * BLOCK)).astype(np.float32)
    cost = cost_of(rng, diagonal=False)
    fit = Fitter(Levels.of(DType.Q4), half=False)
    integers, scales = np.zeros((9, 3 * BLOCK), np.int8), np.zeros((9, 3), np.float32)
    fit(wide[:, BLOCK : 2 * BLOCK], cost, integers[:, BLOCK : 2 * BLOCK], scales[:, 1])
    alone, alone_scales = results(9)[:2]
    fit(np.ascontiguousarray(wide[:, BLOCK : 2 * BLOCK]), cost, alone, alone_scales)
    np.testing.assert_array_equal(integers[:, BLOCK : 2 * BLOCK], alone)
    np.testing.assert_array_equal(scales[:, 1], alone_scales)
    assert not integers[:, :BLOCK].any()
    assert not scales[:, ::2].any()


@needs_native
def test_arrays_that_do_not_fit_are_refused() -> None:
    targets = np.zeros((2, BLOCK), np.float32)
    cost = BlockCost.from_weights(np.ones(BLOCK))
    integers, scales, losses = results(2)
    with pytest.raises(UsageError, match="do not fit each other"):
        fit_native(targets, cost, Levels.of(DType.Q4), False, integers[:1], scales, losses)
    with pytest.raises(UsageError, match="must be int8"):
        fit_native(targets, cost, Levels.of(DType.Q4), False, integers.view(np.uint8), scales, losses)
    with pytest.raises(UsageError, match="next to each other"):
        fit_native(np.zeros((2, 64), np.float32)[:, ::2], cost, Levels.of(DType.Q4), False, *results(2))
