"""The encoders against a slow, literal reading of Jlama's loop, on arbitrary bit patterns."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cg.quant.schemes import Encoded, encode_native, encode_reference, native_problem
from cg.runtime.dtypes import DType
from cg.runtime.tensor import Tensor

f32 = np.float32
MIN_VALUE = f32(1.401298464324817e-45)
Encoder = Callable[..., Encoded]


def java_int(x: float) -> int:
    if math.isnan(x):
        return 0
    if math.isinf(x):
        return 2**31 - 1 if x > 0 else -(2**31)
    return max(-(2**31), min(2**31 - 1, int(x)))


def java_byte(x: float) -> int:
    return (java_int(x) + 128) % 256 - 128


def java_round(x: float) -> int:
    return java_int(x if math.isnan(x) or math.isinf(x) else math.floor(x + 0.5))


def jlama_q4(block: list[np.float32]) -> tuple[bytes, np.float32]:
    largest = amax = MIN_VALUE
    for v in block:
        magnitude = -v if v < 0 else v
        if magnitude > amax:
            largest, amax = v, magnitude
    scale = largest / f32(-8)
    inverse = f32(1) / scale if scale != 0 else f32(0)
    out = []
    for j in range(16):
        low = min(15, java_byte(float(block[j] * inverse + f32(8.5))))
        high = min(15, java_byte(float(block[j + 16] * inverse + f32(8.5))))
        out.append((low | high << 4) & 0xFF)
    return bytes(out), scale


def jlama_i8(block: list[np.float32]) -> tuple[bytes, np.float32]:
    amax = MIN_VALUE
    for v in block:
        magnitude = -v if v < 0 else v
        if magnitude > amax:
            amax = magnitude
    inverse = f32(127) / amax
    scale = f32(1) / inverse if inverse != 0 else f32(0)
    return bytes(java_byte(java_round(float(v * inverse))) & 0xFF for v in block), scale


def source(bits: list[int], dtype: DType) -> Tensor:
    data = np.array(bits, np.uint32 if dtype is DType.F32 else np.uint16).view(np.uint8)
    return Tensor("x", dtype, (1, 32), data)


def check(bits: list[int], source_dtype: DType, dtype: DType, encoder: Encoder) -> None:
    tensor = source(bits, source_dtype)
    with np.errstate(all="ignore"):
        block = list(tensor.dequantize()[0])
        data, scale = (jlama_q4 if dtype is DType.Q4 else jlama_i8)(block)
    encoded = encoder(tensor, dtype)
    assert encoded.data.tobytes() == data
    assert encoded.scales.tobytes() == scale.tobytes()
    assert encoded.finite == all(math.isfinite(v) for v in block)
    assert math.isfinite(encoded.sum_sq)


ENCODERS = [
    pytest.param(encode_reference, id="numpy"),
    pytest.param(
        encode_native,
        id="native",
        marks=pytest.mark.skipif(native_problem() is not None, reason=f"{native_problem()}"),
    ),
]
SPECIAL = [0, 1, 2, 3, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x3F800000, 0x3F000000]
words32 = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from([*SPECIAL, *(s | 0x80000000 for s in SPECIAL)]),
    st.floats(-8, 8, width=32).map(lambda v: int(f32(v).view(np.uint32))),
    st.integers(-16, 16).map(lambda v: int(f32(v / 2).view(np.uint32))),  # ties of values and of rounding
    st.integers(0, 400).map(lambda v: v),  # the smallest subnormal numbers
)
words16 = st.one_of(
    st.integers(0, 2**16 - 1), st.sampled_from([0, 1, 0x8000, 0x8001, 0x7C00, 0x3C00, 0xBC00])
)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("dtype", [DType.Q4, DType.I8])
@settings(max_examples=120, deadline=None)
@example(bits=[0] * 32)
@example(bits=[0x80000000] * 32)
@example(bits=[1] * 32)
@example(bits=[0x80000001] + [1] * 31)
@example(bits=[0x7F800000] * 31 + [0xFF800000])
@example(bits=[0x7FC00000] * 32)
@example(bits=[0x00000100] * 16 + [0x80000100] * 16)
@example(bits=[0x3EFFFFFF] * 31 + [0x42FE0000])  # 0.49999997 with amax 127: must not round up
@given(bits=st.lists(words32, min_size=32, max_size=32))
def test_f32(bits: list[int], dtype: DType, encoder: Encoder) -> None:
    check(bits, DType.F32, dtype, encoder)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("dtype", [DType.Q4, DType.I8])
@pytest.mark.parametrize("source_dtype", [DType.F16, DType.BF16])
@settings(max_examples=60, deadline=None)
@example(bits=[0x7C01] + [0x7F81] + [1] * 30)  # signalling NaN, which some comparisons let win
@given(bits=st.lists(words16, min_size=32, max_size=32))
def test_16_bits(bits: list[int], source_dtype: DType, dtype: DType, encoder: Encoder) -> None:
    check(bits, source_dtype, dtype, encoder)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_largest_element_is_exact_and_the_first_of_equals_decides(encoder: Encoder) -> None:
    values = np.zeros((2, 32), np.float32)
    values[0, 5], values[0, 20] = -3, 3
    values[1, 5], values[1, 20] = 3, -3
    tensor = Tensor("x", DType.F32, (2, 32), values.view(np.uint8).reshape(-1))
    encoded = encoder(tensor, DType.Q4)
    assert encoded.scales.ravel().tolist() == [0.375, -0.375]
    decoded = Tensor("x", DType.Q4, (2, 32), encoded.data, encoded.scales).dequantize()
    assert decoded[0, 5] == -3
    assert decoded[1, 5] == 3
    assert decoded[0, 20] == 2.625  # +8 steps do not exist
