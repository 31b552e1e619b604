"""The drift of inputs, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from cg.quant.rounding.drift import Drift
from cg.quant.rounding.workers import Workers
from cg.runtime.dtypes import DType
from cg.runtime.ops import open_ops
from cg.runtime.tensor import Floats, Tensor

COLS = 96


def matrices(*rows: int) -> list[Tensor]:
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((n, COLS)).astype(np.float32) for n in rows]
    return [
        Tensor(f"matrix {i}", DType.F32, v.shape, v.reshape(-1).view(np.uint8)) for i, v in enumerate(values)
    ]


def inputs(tokens: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(tokens)
    wanted = rng.standard_normal((tokens, COLS)).astype(np.float32)
    return wanted, wanted + 0.1 * rng.standard_normal((tokens, COLS)).astype(np.float32)


@pytest.mark.parametrize(
    "rows", [(7,), (40, 8), (40, 9), (1500, 7)], ids=["few", "half", "over half", "many"]
)
def test_it_is_the_sum_over_all_tokens(rows: tuple[int, ...]) -> None:
    """However many rows, summed for each matrix or for all together."""
    weights = matrices(*rows)
    batches = [inputs(tokens) for tokens in (30, 1, 12)]
    with Workers(2) as workers:
        drift = Drift(weights, open_ops("numpy"), workers)
        for wanted, x in batches:
            drift.add(wanted, x)
        all_wanted, all_x = (np.concatenate(side).astype(np.float64) for side in zip(*batches, strict=True))
        for weight in weights:
            values = weight.dequantize()
            expected = values @ (all_wanted - all_x).T @ all_x
            for start in (0, 5):
                found = drift.of(weight.name, start, values[start : start + 1024])
                np.testing.assert_allclose(found, expected[start : start + 1024], rtol=1e-4, atol=1e-3)
