"""Every byte and every scale bit as Jlama wrote them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cg.quant.schemes import Encoded, encode, encode_native, encode_reference, native_problem
from cg.runtime.dtypes import DType
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.tensor import Tensor

Encoder = Callable[..., Encoded]

PAIRS = [
    ("edge", "edge-Q4", 10),
    ("edge", "edge-I8", 10),
    ("gemma-mqa", "gemma-mqa-JQ4", 21),
    ("gemma-mqa", "gemma-mqa-JQ4-embed", 22),
    ("gemma-mha-wide", "gemma-mha-wide-JQ4", 15),
]
ENCODERS = [
    pytest.param(encode_reference, id="numpy"),
    pytest.param(
        encode_native,
        id="native",
        marks=pytest.mark.skipif(native_problem() is not None, reason=f"{native_problem()}"),
    ),
]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("original", "quantized", "count"), PAIRS)
def test_same_bytes_as_jlama(
    golden: Path, original: str, quantized: str, count: int, encoder: Encoder
) -> None:
    with (
        SafetensorsFile(golden / original / "model.safetensors") as source,
        SafetensorsFile(golden / quantized / "model.safetensors") as jlama,
    ):
        assert set(source.tensors) == set(jlama.tensors)
        compared = 0
        for name, expected in jlama.tensors.items():
            if expected.dtype.is_quantized:
                assert expected.scales is not None
                encoded = encoder(source.tensors[name], expected.dtype)
                assert encoded.data.tobytes() == expected.data.tobytes(), name
                assert encoded.scales.tobytes() == expected.scales.tobytes(), name
                assert encoded.finite == (name != "f.nonfinite.weight")
                compared += 1
            else:
                assert source.tensors[name].data.tobytes() == expected.data.tobytes(), name
        assert compared == count


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("dtype", [DType.Q4, DType.I8])
def test_rows_can_be_encoded_in_pieces(golden: Path, dtype: DType, encoder: Encoder) -> None:
    with SafetensorsFile(golden / "edge" / "model.safetensors") as source:
        tensor = source.tensors["a.gauss_bf16.weight"]
        whole = encoder(tensor, dtype)
        parts = [encoder(tensor, dtype, start, start + 5) for start in (0, 5)] + [encoder(tensor, dtype, 10)]
        assert b"".join(p.data.tobytes() for p in parts) == whole.data.tobytes()
        assert b"".join(p.scales.tobytes() for p in parts) == whole.scales.tobytes()
        assert sum(p.sum_sq for p in parts) == pytest.approx(whole.sum_sq)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("dtype", [DType.Q4, DType.I8])
def test_sums_are_those_of_the_decoded_tensor(golden: Path, dtype: DType, encoder: Encoder) -> None:
    with SafetensorsFile(golden / "edge" / "model.safetensors") as source:
        for name in ("a.gauss_f32.weight", "a.gauss_f16.weight", "b.heavy_tail.weight", "e.huge.weight"):
            tensor = source.tensors[name]
            encoded = encoder(tensor, dtype)
            shape = (tensor.rows, tensor.cols)
            decoded = Tensor(name, dtype, shape, encoded.data, encoded.scales).dequantize().astype(np.float64)
            exact = tensor.dequantize().astype(np.float64)
            assert encoded.sum_sq == pytest.approx(np.square(exact).sum(), rel=1e-5)  # f32 sums of 32
            assert encoded.sum_sq_error == pytest.approx(np.square(exact - decoded).sum(), rel=1e-4)


def test_encode_takes_the_compiled_encoder_where_there_is_one(
    golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("cg.quant.schemes.encode_native", lambda *_: calls.append("native"))
    monkeypatch.setattr("cg.quant.schemes.encode_reference", lambda *_: calls.append("numpy"))
    with SafetensorsFile(golden / "edge" / "model.safetensors") as source:
        tensor = source.tensors["a.gauss_f32.weight"]
        monkeypatch.setattr("cg.quant.schemes.native_problem", lambda: None)
        encode(tensor, DType.Q4)
        monkeypatch.setattr("cg.quant.schemes.native_problem", lambda: "not compiled")
        encode(tensor, DType.Q4)
    assert calls == ["native", "numpy"]
