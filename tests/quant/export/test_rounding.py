"""Float32 in narrower types: against numpy, PyTorch and exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from cg.quant.export.rounding import Rounding, narrow, widen
from cg.runtime.dtypes import DType
from cg.runtime.errors import NonFiniteError
from cg.runtime.tensor import Floats


def _numbers(count: int = 20_000) -> Floats:
    """Of every magnitude that bf16 and f16 have in common, ties of both included."""
    rng = np.random.default_rng(7)
    numbers = rng.standard_normal(count).astype(np.float32) * np.exp2(rng.integers(-30, 15, count))
    ties = np.float32(1) + np.arange(64, dtype=np.float32) * np.float32(2.0**-12)
    return np.concatenate([numbers.astype(np.float32), ties, -ties, [np.float32(0), np.float32(-0.0)]])


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_rounds_as_pytorch_does(dtype: DType) -> None:
    values = _numbers()
    stored, _ = narrow(values, dtype, "x")
    wanted = torch.from_numpy(values).to(torch.float16 if dtype is DType.F16 else torch.bfloat16)
    np.testing.assert_array_equal(stored.view(np.int16), wanted.view(torch.int16).numpy())
    np.testing.assert_array_equal(widen(stored, dtype), wanted.float().numpy())


def test_reports_what_exact_arithmetic_says() -> None:
    values = np.array([1.0, 1.0 + 2.0**-12, 3e-5, 2.0**-26, -(2.0**-26), 0.1], np.float32)
    _, rounding = narrow(values, DType.F16, "x")
    moves = []
    for value in values[[1, 2, 5]]:
        old, new = Fraction(float(value)), Fraction(float(np.float16(value)))
        moves.append(abs(new - old) / abs(old))
    assert rounding == Rounding(6, 5, 2, float(max(moves)))


def test_what_fits_is_exact() -> None:
    values = np.array([0.5, -0.0, 65504, 2.0**-24, 3.0], np.float32)
    stored, rounding = narrow(values, DType.F16, "x")
    assert rounding == Rounding(5)
    assert rounding.exact
    np.testing.assert_array_equal(widen(stored, DType.F16).view(np.uint32), values.view(np.uint32))
    same, nothing = narrow(values, DType.F32, "x")
    assert same is values
    assert nothing.exact


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, DType.F32, "x: NaN or infinity"),
        (np.inf, DType.F16, "x: NaN or infinity"),
        (-65520.0, DType.F16, "x: -65520 is beyond what F16 can hold"),
        (3.4e38, DType.BF16, "is beyond what BF16 can hold"),
    ],
)
def test_what_no_number_of_the_type_stands_for_is_refused(value: float, dtype: DType, message: str) -> None:
    with pytest.raises(NonFiniteError, match=message) as error:
        narrow(np.array([1.0, value], np.float32), dtype, "x")
    assert error.value.hint


def test_sums() -> None:
    assert Rounding(2, 1, 0, 0.5) + Rounding(3, 2, 1, 0.25) == Rounding(5, 3, 1, 0.5)
