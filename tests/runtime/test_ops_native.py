"""The compiled products on every instruction set of this machine, against the plain definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cg.runtime import ops_native
from cg.runtime.dtypes import DType
from cg.runtime.ops import Activations
from cg.runtime.ops_native import NativeOps
from cg.runtime.ops_reference import fake_quantize_int8
from cg.runtime.tensor import Floats, Tensor

ISAS = [name for name, supported in ops_native.supported_isas() if supported]
BLOCKED = [DType.Q4, DType.I8]
FLOATS = [DType.BF16, DType.F16, DType.F32]
KINDS: list[tuple[DType, Activations]] = [
    *((d, "f32") for d in BLOCKED + FLOATS),
    *((d, "int8") for d in BLOCKED),
]
# Sums of up to a thousand products in f32, in eight or sixteen chains: a few dozen roundings of 6e-8 each,
# relative to the sum of the products' magnitudes.
TOLERANCE = 2e-6

isas = pytest.mark.parametrize("isa", ISAS)
kinds = pytest.mark.parametrize(("dtype", "activations"), KINDS, ids=[f"{d.value}-{a}" for d, a in KINDS])


def at_offset(array: NDArray[Any], offset: int) -> Any:
    """The same bytes at an address that is ``offset`` past a multiple of 64, with no byte to spare."""
    room = np.empty(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    room[start : start + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    return room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


def random_weight(dtype: DType, rows: int, cols: int, seed: int = 0, offset: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, cols), dtype=np.float32)
    if dtype.is_quantized:
        data = rng.integers(0, 256, rows * cols * dtype.bits // 8, dtype=np.uint8)
        scales = rng.standard_normal((rows, cols // 32), dtype=np.float32)
        return Tensor("w", dtype, (rows, cols), at_offset(data, offset), at_offset(scales, offset))
    if dtype is DType.BF16:
        stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        stored = values.astype(dtype.storage)
    return Tensor("w", dtype, (rows, cols), at_offset(stored.reshape(-1).view(np.uint8), offset))


def tokens(count: int, cols: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, cols), dtype=np.float32)


def check_product(y: Floats, x: Floats, weight: Tensor, activations: Activations) -> None:
    if activations == "int8":
        x = fake_quantize_int8(x)
    w = weight.dequantize().astype(np.float64)
    expected, magnitude = x @ w.T, np.abs(x) @ np.abs(w).T
    # The products with nibbles 0..15 and the offset that turns them into -8..7 cancel.
    if weight.dtype is DType.Q4 and activations == "int8" and weight.scales is not None:
        magnitude += 8 * np.abs(x) @ np.repeat(np.abs(weight.scales), 32, axis=1).T
    assert y.shape == expected.shape
    assert y.dtype == np.float32
    assert np.all(np.abs(y - expected) <= TOLERANCE * magnitude + 1e-30)


@isas
@kinds
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33, 71])
def test_product_is_the_dequantized_one(isa: str, dtype: DType, activations: Activations, count: int) -> None:
    ops = NativeOps(threads=2, activations=activations, isa=isa)
    columns = (
        (32, 64, 96, 224, 256, 288, 544, 1024) if dtype.is_quantized else (1, 7, 8, 31, 33, 63, 64, 97, 300)
    )
    for rows in (1, 5, 33):
        for cols in columns:
            weight = random_weight(dtype, rows, cols, seed=rows + cols)
            x = tokens(count, cols)
            check_product(ops.matmul(x, weight), x, weight, activations)


@isas
@kinds
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_any_address_gives_the_same(isa: str, dtype: DType, activations: Activations, offset: int) -> None:
    ops = NativeOps(threads=1, activations=activations, isa=isa)
    x = tokens(5, 352)
    aligned = ops.matmul(x, random_weight(dtype, 19, 352))
    np.testing.assert_array_equal(ops.matmul(x, random_weight(dtype, 19, 352, offset=offset)), aligned)


@isas
@kinds
def test_threads_and_neighbours_change_nothing(isa: str, dtype: DType, activations: Activations) -> None:
    weight, x = random_weight(dtype, 203, 352), tokens(71, 352)
    alone = NativeOps(threads=1, activations=activations, isa=isa)
    for count in (71, 33, 16):
        together = alone.matmul(x[:count], weight)
        for threads in (2, 3, 5):
            ops = NativeOps(threads=threads, activations=activations, isa=isa)
            np.testing.assert_array_equal(ops.matmul(x[:count], weight), together)
        # With f32 activations a few tokens are added up in another order than many.
        for fewer in range(1, count):
            if activations == "int8" or fewer > 16 or count <= 16:
                np.testing.assert_array_equal(alone.matmul(x[:fewer], weight), together[:fewer])


@isas
@pytest.mark.parametrize("dtype", BLOCKED)
@pytest.mark.parametrize("cols", [32, 224, 256, 2080, 4096, 4128, 8992, 20512])
def test_one_and_many_tokens_agree_to_the_bit(isa: str, dtype: DType, cols: int) -> None:
    """However the columns are cut into pieces and whatever the height of a panel."""
    ops = NativeOps(threads=2, activations="int8", isa=isa)
    for rows in (1, 16, 33, 67):
        weight, x = random_weight(dtype, rows, cols, seed=rows), tokens(71, cols)
        many = ops.matmul(x, weight)
        np.testing.assert_array_equal(ops.matmul(x[:29], weight), many[:29])
        for t in range(0, len(x), 3):
            np.testing.assert_array_equal(ops.matmul(x[t : t + 1], weight)[0], many[t])


@isas
@kinds
@pytest.mark.parametrize("count", [1, 5, 23])
def test_residual_is_added(isa: str, dtype: DType, activations: Activations, count: int) -> None:
    ops = NativeOps(threads=2, activations=activations, isa=isa)
    weight, x, residual = random_weight(dtype, 77, 320), tokens(count, 320), tokens(count, 77, seed=5)
    y = ops.matmul(x, weight, residual)
    scale = np.abs(x) @ np.abs(weight.dequantize()).T + np.abs(residual)
    assert np.all(np.abs(y - (residual + ops.matmul(x, weight))) <= TOLERANCE * scale)


@isas
@pytest.mark.parametrize("activations", ["f32", "int8"])
@pytest.mark.parametrize("count", [1, 3, 8, 16, 17, 40, 70])
def test_fused_products_are_the_single_ones(isa: str, activations: Activations, count: int) -> None:
    """Weights of several formats and heights in one call, with the norm in front."""
    ops = NativeOps(threads=3, activations=activations, isa=isa)
    x, norm = tokens(count, 288) * 5, tokens(1, 288, seed=3)[0]
    weights = [
        random_weight(d, rows, 288) for d, rows in zip(BLOCKED + FLOATS, (70, 3, 40, 1, 33), strict=True)
    ]
    unit = Tensor("1", DType.F32, (288, 288), np.eye(288, dtype=np.float32).view(np.uint8).reshape(-1))
    h = ops.norm_matmul(x, norm, 1e-6, [unit])[0]
    for y, weight in zip(ops.norm_matmul(x, norm, 1e-6, weights), weights, strict=True):
        np.testing.assert_array_equal(y, ops.matmul(h, weight))
    gate, up = random_weight(DType.Q4, 100, 288), random_weight(DType.I8, 100, 288, seed=1)
    fused = ops.norm_geglu(x, norm, 1e-6, gate, up)
    g, u = ops.matmul(h, gate).astype(np.float64), ops.matmul(h, up)
    with np.errstate(over="ignore"):
        expected = g / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) * u
    np.testing.assert_allclose(fused, expected, rtol=2e-6, atol=1e-5)


@isas
@pytest.mark.parametrize("dtype", BLOCKED)
def test_extreme_integers_do_not_overflow(isa: str, dtype: DType) -> None:
    """All products of a block at their largest, of either sign."""
    ops = NativeOps(threads=1, activations="int8", isa=isa)
    scales = np.ones((4, 8), np.float32)
    low, high = (0x00, 0xFF) if dtype is DType.Q4 else (0x80, 0x7F)
    data = np.full((4, 256 * dtype.bits // 8), low, np.uint8)
    data[1] = high
    data[2, ::2] = high
    weight = Tensor("w", dtype, (4, 256), data.reshape(-1), scales)
    x = np.full((2, 256), 127, np.float32)
    x[1] = -127
    np.testing.assert_array_equal(ops.matmul(x, weight), x @ weight.dequantize().T)


@isas
@pytest.mark.parametrize("dtype", BLOCKED)
def test_int8_rounds_to_nearest_even(isa: str, dtype: DType) -> None:
    """A unit weight shows the quantized activation itself."""
    ops = NativeOps(threads=1, activations="int8", isa=isa)
    x = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 63.49, -63.51, *range(-11, 12)]], np.float32)
    data = np.zeros((32, 32), np.int8)
    np.fill_diagonal(data, 1)
    if dtype is DType.Q4:
        nibbles = (data + 8).astype(np.uint8)
        data = (nibbles[:, :16] | nibbles[:, 16:] << 4).view(np.int8)
    weight = Tensor("w", dtype, (32, 32), data.reshape(-1).view(np.uint8), np.ones((32, 1), np.float32))
    np.testing.assert_array_equal(ops.matmul(x, weight), np.rint(x))


@isas
@pytest.mark.parametrize("dtype", BLOCKED)
def test_tiny_activations_count_as_zero(isa: str, dtype: DType) -> None:
    ops = NativeOps(threads=1, activations="int8", isa=isa)
    x = np.zeros((3, 64), np.float32)
    x[1, 3], x[2, 40] = 1e-44, -3e-37
    y = ops.matmul(x, random_weight(dtype, 5, 64))
    np.testing.assert_array_equal(y, np.zeros((3, 5), np.float32))


@isas
@kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_activations_never_look_like_numbers(
    isa: str, dtype: DType, activations: Activations, bad: float
) -> None:
    ops = NativeOps(threads=1, activations=activations, isa=isa)
    weight = random_weight(dtype, 9, 320)
    for position in (0, 17, 255, 256, 319):
        x = tokens(3, 320)
        clean = ops.matmul(x, weight)
        x[1, position] = bad
        y = ops.matmul(x, weight)
        assert not np.isfinite(y[1]).any()
        np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])


@isas
@kinds
def test_non_finite_weights_stay_in_their_row(isa: str, dtype: DType, activations: Activations) -> None:
    ops = NativeOps(threads=1, activations=activations, isa=isa)
    weight, x = random_weight(dtype, 9, 320), tokens(2, 320)
    clean = ops.matmul(x, weight)
    if weight.scales is not None:
        weight.scales[4, 9] = np.inf
    elif dtype is DType.BF16:
        weight.data[4 * 640 + 600 : 4 * 640 + 602].view(np.uint16)[:] = 0x7FC0
    else:
        weight.data.view(dtype.storage)[4 * 320 + 300] = np.nan
    y = ops.matmul(x, weight)
    assert not np.isfinite(y[:, 4]).any()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    np.testing.assert_array_equal(y[:, others], clean[:, others])


@isas
@pytest.mark.parametrize("dtype", BLOCKED + FLOATS)
def test_embedding_rows_are_exact(isa: str, dtype: DType) -> None:
    ops = NativeOps(threads=2, isa=isa)
    for cols in (32, 288) if dtype.is_quantized else (1, 31, 32, 45, 288):
        table = random_weight(dtype, 50, cols, offset=1)
        ids = np.array([49, 0, 7, 7, 31], np.int32)
        expected = table.dequantize()[ids] * np.float32(11.3)
        np.testing.assert_array_equal(ops.embed(table, ids, 11.3), expected)
