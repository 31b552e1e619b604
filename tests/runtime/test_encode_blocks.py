"""Compiled block encoders against Jlama's own files and against Java's arithmetic, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cg.runtime import ops_native
from cg.runtime.blocks_native import encode_blocks
from cg.runtime.dtypes import DType
from cg.runtime.errors import UsageError
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.ops_native import FORCE_ISA
from cg.runtime.tensor import Bytes, Floats, Tensor

ISAS = [name for name, supported in ops_native.supported_isas() if supported]
PAIRS = [
    ("edge", "edge-Q4"),
    ("edge", "edge-I8"),
    ("gemma-mqa", "gemma-mqa-JQ4"),
    ("gemma-mqa", "gemma-mqa-JQ4-embed"),
    ("gemma-mha-wide", "gemma-mha-wide-JQ4"),
]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(FORCE_ISA, request.param)
    return str(request.param)


def encode(dtype: DType, source: Tensor) -> tuple[Bytes, Floats, tuple[bool, float, float]]:
    data = np.empty(source.size * dtype.bits // 8, np.uint8)
    scales = np.empty((source.rows, source.cols // 32), np.float32)
    stats = encode_blocks(dtype, source.dtype, source.data, source.rows, source.cols, data, scales)
    return data, scales, stats


@pytest.mark.parametrize(("original", "quantized"), PAIRS)
def test_every_byte_of_jlama(isa: str, golden: Path, original: str, quantized: str) -> None:
    sources = SafetensorsFile(golden / original / "model.safetensors").tensors
    targets = SafetensorsFile(golden / quantized / "model.safetensors").tensors
    compared = 0
    for name, target in targets.items():
        if not target.dtype.is_quantized:
            continue
        data, scales, stats = encode(target.dtype, sources[name])
        assert target.scales is not None
        np.testing.assert_array_equal(data, target.data, err_msg=name)
        np.testing.assert_array_equal(scales.view(np.uint32), target.scales.view(np.uint32), err_msg=name)
        assert stats[0] == bool(np.isfinite(sources[name].dequantize()).all())
        compared += 1
    assert compared >= 3


def java_int(v: float | np.floating[Any]) -> int:
    return 0 if np.isnan(v) else int(max(-(2.0**31), min(2.0**31 - 1, float(np.trunc(v)))))


def java_byte(v: int) -> int:
    return (v + 128) % 256 - 128


def java_block(dtype: DType, x: Floats) -> tuple[list[int], np.float32]:
    """One block as Jlama's processBlock computes it, in scalar f32."""
    tiny = np.float32(1e-45)
    peak = largest = tiny
    for v in x:
        if abs(v) > largest:
            peak, largest = v, abs(v)
    with np.errstate(all="ignore"):
        if dtype is DType.Q4:
            scale = peak / np.float32(-8)
            inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
            n = [min(15, java_byte(java_int(v * inverse + np.float32(8.5)))) for v in x]
            return [(n[j] | n[j + 16] << 4) & 255 for j in range(16)], scale
        inverse = np.float32(127) / largest
        scale = np.float32(1) / inverse if inverse != 0 else np.float32(0)
        products = [v * inverse for v in x]
        # Half up in exact arithmetic: doubles hold every product plus a half.
        halves = [v if np.isnan(v) or np.isinf(v) else np.floor(float(v) + 0.5) for v in products]
        return [java_byte(java_int(v)) & 255 for v in halves], scale


bits = st.one_of(
    st.integers(0, 2**32 - 1),
    st.floats(width=32).map(lambda v: int(np.float32(v).view(np.uint32))),
    st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0]).map(
        lambda v: int(np.float32(v).view(np.uint32))
    ),
)


@pytest.mark.parametrize("isa_name", ISAS)
@pytest.mark.parametrize("dtype", [DType.Q4, DType.I8])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(words=st.lists(bits, min_size=32, max_size=32), exponent=st.integers(-60, 40))
def test_any_block_is_java_s(dtype: DType, isa_name: str, words: list[int], exponent: int) -> None:
    raw = np.array(words, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        x = raw if exponent > 20 else np.clip(raw, -4, 4) * np.float32(2.0**exponent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FORCE_ISA, isa_name)
        data, scales, _ = encode(dtype, Tensor("x", DType.F32, (1, 32), x.view(np.uint8)))
    expected, scale = java_block(dtype, x)
    np.testing.assert_array_equal(data, np.array(expected, np.uint8))
    np.testing.assert_array_equal(scales.view(np.uint32), np.array([[scale]], np.float32).view(np.uint32))


@pytest.mark.parametrize("dtype", [DType.Q4, DType.I8])
@pytest.mark.parametrize("source", [DType.BF16, DType.F16, DType.F32])
@pytest.mark.parametrize("offset", [0, 1])
def test_source_types_addresses_and_statistics(isa: str, dtype: DType, source: DType, offset: int) -> None:
    x = np.random.default_rng(3).standard_normal((37, 96), dtype=np.float32)
    stored = x.view(np.uint32) >> 16 if source is DType.BF16 else x
    raw = stored.astype(source.storage).reshape(-1).view(np.uint8)
    room = np.empty(raw.size + offset, np.uint8)
    room[offset:] = raw
    tensor = Tensor("x", source, x.shape, room[offset:])
    exact = tensor.dequantize()
    data, scales, (finite, square, error) = encode(dtype, tensor)
    same = encode(dtype, Tensor("x", DType.F32, x.shape, exact.reshape(-1).view(np.uint8)))
    np.testing.assert_array_equal(data, same[0])
    np.testing.assert_array_equal(scales, same[1])
    decoded = Tensor("x", dtype, x.shape, data, scales).dequantize().astype(np.float64)
    assert finite
    assert square == pytest.approx(np.square(exact, dtype=np.float64).sum(), rel=1e-6)
    assert error == pytest.approx(np.square(decoded - exact).sum(), rel=1e-5)


def test_statistics_leave_out_blocks_that_are_not_finite(isa: str) -> None:
    x = np.ones((1, 64), np.float32)
    x[0, 40] = np.nan
    _, _, (finite, square, _) = encode(
        DType.Q4, Tensor("x", DType.F32, x.shape, x.reshape(-1).view(np.uint8))
    )
    assert (finite, square) == (False, 32.0)


def test_sizes_and_types_are_checked() -> None:
    x, data, scales = np.zeros(256, np.uint8), np.empty(32, np.uint8), np.empty((1, 2), np.float32)
    encode_blocks(DType.Q4, DType.F32, x, 1, 64, data, scales)
    read_only = np.empty(32, np.uint8)
    read_only.flags.writeable = False
    for arguments in [
        (DType.F32, DType.F32, x, 1, 64, data, scales),
        (DType.Q4, DType.I8, x, 1, 64, data, scales),
        (DType.Q4, DType.F32, x, 1, 32, data, scales),
        (DType.Q4, DType.F32, x, 2, 16, data, scales),
        (DType.Q4, DType.F32, x, -1, -64, data, scales),
        (DType.I8, DType.F32, x, 1, 64, data, scales),
        (DType.Q4, DType.F32, x, 1, 64, data, scales.T),
        (DType.Q4, DType.F32, x, 1, 64, read_only, scales),
        (DType.Q4, DType.F32, x.view(np.int8), 1, 64, data, scales),
        (DType.Q4, DType.F32, x, 1, 64, data, scales.view(np.int32)),
    ]:
        with pytest.raises(UsageError, match="encode_blocks"):
            encode_blocks(*arguments)  # type: ignore[arg-type]
