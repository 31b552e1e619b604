"""Q4 with scales in f16: on every backend and instruction set, to the bit what f32 scales give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cg.runtime import ops_native
from cg.runtime.dtypes import DType
from cg.runtime.errors import CheckpointError
from cg.runtime.ops import Activations, Ops, open_ops
from cg.runtime.ops_native import NativeOps
from cg.runtime.tensor import Floats, Tensor

ISAS = [name for name, supported in ops_native.supported_isas() if supported]

isas = pytest.mark.parametrize("isa", ISAS)
activations = pytest.mark.parametrize("activations", ["f32", "int8"])


def at_offset(array: NDArray[Any], offset: int) -> Any:
    """The same bytes ``offset`` past a multiple of 64, with no byte to spare."""
    room = np.empty(array.nbytes + 64 + offset, np.uint8)
    room = room[-room.ctypes.data % 64 + offset :][: array.nbytes]
    room[:] = np.frombuffer(array.tobytes(), np.uint8)
    return room.view(array.dtype).reshape(array.shape)


def half_scales(rows: int, blocks: int, seed: int) -> NDArray[np.float16]:
    """Any finite bits: normal, subnormal and zero, of both signs."""
    bits = np.random.default_rng(seed).integers(0, 0x7C00, (rows, blocks), dtype=np.uint16)
    bits[::2, ::3] &= 0x03FF
    bits[1::3, ::5] = 0
    bits[:, ::2] |= 0x8000
    return bits.view(np.float16)


def pair(rows: int, cols: int, seed: int = 0, offset: int = 0) -> tuple[Tensor, Tensor]:
    """The same weights with f32 and with f16 scales."""
    data = np.random.default_rng(seed).integers(0, 256, rows * cols // 2, dtype=np.uint8)
    scales = half_scales(rows, cols // 32, seed)
    wide = Tensor("w", DType.Q4, (rows, cols), data, scales.astype(np.float32))
    return wide, Tensor("w", DType.Q4, (rows, cols), at_offset(data, offset), at_offset(scales, offset))


def tokens(count: int, cols: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, cols), dtype=np.float32)


def check_same(ops: Ops, wide: Tensor, half: Tensor, count: int) -> None:
    x = tokens(count, wide.cols)
    np.testing.assert_array_equal(ops.matmul(x, half), ops.matmul(x, wide))


@isas
@activations
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33])
def test_products(isa: str, activations: Activations, count: int) -> None:
    ops = NativeOps(threads=2, activations=activations, isa=isa)
    for rows in (1, 5, 35):
        for cols in (32, 64, 96, 224, 256, 288, 544, 1024, 4128):
            check_same(ops, *pair(rows, cols, seed=rows + cols), count)


@isas
@activations
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_any_address(isa: str, activations: Activations, offset: int) -> None:
    ops = NativeOps(threads=1, activations=activations, isa=isa)
    for count in (1, 5, 17):
        check_same(ops, *pair(19, 352, offset=offset), count)


@isas
@activations
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads(isa: str, activations: Activations, threads: int) -> None:
    """Pieces are cut by bytes: those of f16 scales are not the same rows."""
    ops = NativeOps(threads=threads, activations=activations, isa=isa)
    for count in (1, 7, 40):
        check_same(ops, *pair(1203, 352), count)


@isas
@activations
@pytest.mark.parametrize("count", [1, 6, 21])
def test_beside_other_weights(isa: str, activations: Activations, count: int) -> None:
    """Several weights in one call share their activations; gate and up may have different scales."""
    ops = NativeOps(threads=3, activations=activations, isa=isa)
    x, norm = tokens(count, 288), tokens(1, 288, seed=3)[0]
    (q, q_half), (k, k_half), (v, v_half) = (pair(rows, 288, seed=rows) for rows in (70, 70, 33))
    expected = ops.norm_matmul(x, norm, 1e-6, (q, k, v))
    for weights in ((q_half, k, v_half), (q, k_half, v), (q_half, k_half, v_half)):
        for y, z in zip(ops.norm_matmul(x, norm, 1e-6, weights), expected, strict=True):
            np.testing.assert_array_equal(y, z)
    with np.errstate(over="ignore"):
        gated = ops.norm_geglu(x, norm, 1e-6, q, k)
    for gate, up in ((q_half, k), (q, k_half), (q_half, k_half)):
        np.testing.assert_array_equal(ops.norm_geglu(x, norm, 1e-6, gate, up), gated)
    residual = tokens(count, 70, seed=4)
    np.testing.assert_array_equal(ops.matmul(x, q_half, residual), ops.matmul(x, q, residual))


@isas
def test_embedding(isa: str) -> None:
    ops = NativeOps(threads=2, isa=isa)
    ids = np.array([49, 0, 7, 7, 31], np.int32)
    for cols in (32, 288):
        wide, half = pair(50, cols, offset=1)
        np.testing.assert_array_equal(ops.embed(half, ids, 11.3), ops.embed(wide, ids, 11.3))
        np.testing.assert_array_equal(ops.embed(half, ids, 1.0), half.dequantize()[ids])


@isas
def test_non_finite_scales_stay_in_their_row(isa: str) -> None:
    """cg does not make them, but what another program writes must not come out as numbers."""
    ops = NativeOps(threads=1, isa=isa)
    wide, half = pair(9, 320)
    assert half.scales is not None
    half.scales[4, 9] = np.inf
    half.scales[6, 3] = np.nan
    x = tokens(2, 320)
    y, clean = ops.matmul(x, half), ops.matmul(x, wide)
    assert not np.isfinite(y[:, [4, 6]]).any()
    others = [0, 1, 2, 3, 5, 7, 8]
    np.testing.assert_array_equal(y[:, others], clean[:, others])


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_other_backends(backend: Any) -> None:
    ops = open_ops(backend)
    wide, half = pair(35, 288, offset=1)
    check_same(ops, wide, half, 3)
    ids = np.array([3, 34], np.int32)
    np.testing.assert_array_equal(ops.embed(half, ids, 2.0), ops.embed(wide, ids, 2.0))


def test_bytes_are_those_of_the_file() -> None:
    wide, half = pair(35, 288)
    assert (wide.nbytes, half.nbytes) == (35 * 9 * 20, 35 * 9 * 18)
    np.testing.assert_array_equal(half.dequantize(3, 8), wide.dequantize()[3:8])
    assert half.dequantize().dtype == np.float32


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [
        (DType.I8, np.ones((4, 2), np.float16)),
        (DType.Q4, np.ones((4, 2), np.float64)),
        (DType.Q4, np.ones((4, 2), np.uint16)),
    ],
)
def test_scales_of_other_types_are_refused(dtype: DType, scales: Any) -> None:
    weight = Tensor("w", dtype, (4, 64), np.zeros(4 * 64 * dtype.bits // 8, np.uint8), scales)
    with pytest.raises(CheckpointError, match=f"w: {dtype.value} with scales in {scales.dtype}"):
        NativeOps(threads=1).matmul(tokens(1, 64), weight)
