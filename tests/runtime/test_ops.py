"""Every operation that is no product, on every instruction set, against the numpy backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cg.runtime import ops_native, ops_reference
from cg.runtime.dtypes import DType
from cg.runtime.ops import available_backends, open_ops
from cg.runtime.ops_native import NativeOps
from cg.runtime.ops_reference import ReferenceOps
from cg.runtime.tensor import Floats, Tensor

ISAS = [name for name, supported in ops_native.supported_isas() if supported]
isas = pytest.mark.parametrize("isa", ISAS)
REFERENCE = ReferenceOps()


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def stored(values: Floats) -> Tensor:
    return Tensor("w", DType.F32, values.shape, np.ascontiguousarray(values).view(np.uint8).reshape(-1))


def rms_norm(ops: NativeOps, x: Floats, weight: Floats, eps: float) -> Floats:
    """Multiplying with the unit matrix shows the norm itself."""
    return ops.norm_matmul(x, weight, eps, [stored(np.eye(x.shape[1], dtype=np.float32))])[0]


def geglu(ops: NativeOps, gate: Floats, up: Floats) -> Floats:
    """The norm of a single 1 is 1, so the weights themselves are what gelu sees."""
    one = np.ones((1, 1), np.float32)
    y = ops.norm_geglu(one, one[0], 0.0, stored(gate.reshape(-1, 1)), stored(up.reshape(-1, 1)))
    return y.reshape(gate.shape)


@isas
@pytest.mark.parametrize("size", [1, 7, 8, 31, 32, 33, 64, 100, 2048])
def test_rms_norm(isa: str, size: int) -> None:
    ops = NativeOps(threads=2, isa=isa)
    for tokens in (1, 3, 40):
        x, weight = normal(tokens, size) * 30, normal(size, seed=1)
        # A sum of squares has no cancellation: a few roundings in all.
        np.testing.assert_allclose(
            rms_norm(ops, x, weight, 1e-6), ops_reference.rms_norm(x, weight, 1e-6), rtol=2e-6
        )


@isas
def test_rms_norm_of_zeros_and_of_nan(isa: str) -> None:
    ops = NativeOps(threads=1, isa=isa)
    x = normal(3, 40)
    x[0], x[1, 39] = 0, np.nan
    y = rms_norm(ops, x, np.ones(40, np.float32), 1e-6)
    assert not y[0].any()
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[2]).all()


@isas
@pytest.mark.parametrize("head_dim", [2, 6, 16, 24, 64, 256])
def test_rope(isa: str, head_dim: int) -> None:
    ops = NativeOps(threads=2, isa=isa)
    for tokens, heads, position in ((1, 1, 0), (1, 4, 8191), (5, 2, 100), (70, 8, 3)):
        x = normal(tokens, heads, head_dim)
        expected = x.copy()
        REFERENCE.rope(expected, position, 10000.0)
        ops.rope(x, position, 10000.0)
        # Angles may differ by a double's rounding: 1e-12 at position 8191.
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-6)


@isas
def test_rope_in_pieces_is_rope(isa: str) -> None:
    """The table of angles is kept between calls, for any position inside and outside of it."""
    ops = NativeOps(threads=1, isa=isa)
    whole = normal(12, 2, 16)
    pieces = whole.copy()
    ops.rope(whole, 7, 10000.0)
    other = normal(1, 1, 16)
    for start, stop in ((8, 12), (0, 8)):
        ops.rope(pieces[start:stop], 7 + start, 10000.0)
        ops.rope(other, 9, 500.0)
        ops.rope(normal(1, 1, 32), 9, 10000.0)
    np.testing.assert_array_equal(pieces, whole)
    again = normal(12, 2, 16)
    ops.rope(again, 7, 10000.0)
    last = normal(12, 2, 16)[11:]
    ops.rope(last, 18, 10000.0)
    np.testing.assert_array_equal(last, again[11:])


@isas
@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (8, 1), (6, 2), (3, 1)])
def test_attention(isa: str, kind: type, heads: int, kv_heads: int) -> None:
    ops = NativeOps(threads=3, isa=isa)
    for head_dim, tokens, position in (
        (256, 1, 300),
        (32, 5, 0),
        (24, 9, 130),
        (13, 2, 11),
        (5, 1, 0),
        (64, 33, 40),
        (16, 5, 510),  # some of the tokens see another segment
    ):
        capacity = position + tokens + 3
        q = normal(tokens, heads, head_dim)
        keys: NDArray[Any] = normal(kv_heads, capacity, head_dim, seed=1).astype(kind)
        values: NDArray[Any] = normal(kv_heads, capacity, head_dim, seed=2).astype(kind)
        keys[:, position + tokens :] = values[:, position + tokens :] = np.nan  # the future must not be read
        y = ops.attention(q, keys, values, position, head_dim**-0.5)
        expected = REFERENCE.attention(q, keys, values, position, head_dim**-0.5)
        assert y.shape == (tokens, heads * head_dim)
        # Weights sum to 1; e^x is good to about 2e-7 and scores to a few 1e-7.
        np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6)


@isas
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_attention_does_not_depend_on_threads_neighbours_or_strides(isa: str, kv_heads: int) -> None:
    tokens, heads, head_dim, position = 21, 4, 32, 245
    q = normal(tokens, heads, head_dim)
    room = normal(position + tokens, 2, kv_heads, head_dim, seed=1)
    keys, values = (room[:, i].transpose(1, 0, 2) for i in (0, 1))
    together = NativeOps(threads=1, isa=isa).attention(q, keys, values, position, 0.2)
    packed = (np.ascontiguousarray(keys), np.ascontiguousarray(values))
    for threads in (2, 3):
        ops = NativeOps(threads=threads, isa=isa)
        np.testing.assert_array_equal(ops.attention(q, *packed, position, 0.2), together)
        for t in (0, 1, 20):
            alone = ops.attention(q[t : t + 1], keys, values, position + t, 0.2)
            np.testing.assert_array_equal(alone[0], together[t])


@isas
def test_attention_passes_nan_on(isa: str) -> None:
    ops = NativeOps(threads=1, isa=isa)
    q, cache = normal(3, 2, 16), normal(1, 12, 16, seed=1)
    keys, values = cache.copy(), cache.copy()
    keys[0, 10, 5] = np.nan  # seen by the last two tokens
    y = ops.attention(q, keys, values, 9, 0.25)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1:]).all()


@isas
def test_geglu(isa: str) -> None:
    ops = NativeOps(threads=2, isa=isa)
    gate = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -0.0, 1e-30, -1e-30, 50, -50, 1e5, -1e5]])
    gate = gate.astype(np.float32)
    up = normal(*gate.shape)
    g = gate.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)
    exact = 0.5 * g * (1 + np.tanh(inner)) * up
    np.testing.assert_allclose(geglu(ops, gate, up), exact, rtol=1e-6, atol=2e-7)
    for size in range(1, 40):
        np.testing.assert_allclose(
            geglu(ops, gate[:size], up[:size]),
            ops_reference.geglu(gate[:size], up[:size]),
            rtol=1e-5,
            atol=1e-6,
        )


@isas
def test_geglu_of_non_finite(isa: str) -> None:
    ops = NativeOps(threads=1, isa=isa)
    y = geglu(ops, np.array([np.nan, 1, 1, 2], np.float32), np.array([1, np.nan, np.inf, 3], np.float32))
    assert np.isnan(y[:2]).all()
    assert np.isposinf(y[2])
    assert np.isfinite(y[3])


def test_native_is_the_default_backend() -> None:
    ops = open_ops()
    assert (ops.name, ops.activations) == ("native", "int8")
    assert ops.isa == ops_native.active_isa()
    assert ops.threads >= 1
    assert available_backends()[0].reason == f"compiled kernels, {ops.isa}"
