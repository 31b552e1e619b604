"""Distortion tensor by tensor, against float64 numpy on what safetensors and Jlama wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from cg.quant import tensor_distortion
from cg.quant.evaluation_text import EvaluationText
from cg.quant.verify import VerifyOptions, verify
from cg.runtime.formats.checkpoint import Checkpoint

TEXT = EvaluationText("test", "value = 1\n" * 60, "")
OPTIONS = VerifyOptions(context=32, chunks=1, backend="numpy", holes=0)


@pytest.mark.parametrize("piece", [1, 1000, 1 << 18])
def test_errors_are_those_of_the_values(piece: int, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_distortion, "_PIECE_ELEMENTS", piece)
    result = verify(golden / "gemma-mqa-JQ4-embed", golden / "gemma-mqa", [TEXT], OPTIONS)
    source = load_file(golden / "gemma-mqa" / "model.safetensors")
    assert {t.name for t in result.tensors} == set(source)
    signal = noise = 0.0
    with Checkpoint.open(golden / "gemma-mqa-JQ4-embed") as checkpoint:
        for tensor in result.tensors:
            values = source[tensor.name].double().numpy()
            error = (
                checkpoint.tensors[tensor.name].dequantize().astype(np.float64).reshape(values.shape) - values
            )
            if "norm" in tensor.name:
                assert tensor.distortion is None
                assert not error.any()
                continue
            assert (tensor.source_dtype, tensor.dtype) == ("BF16", "Q4")
            assert tensor.distortion is not None
            relative = np.linalg.norm(error) / np.linalg.norm(values)
            assert tensor.distortion.relative_error == pytest.approx(relative, rel=1e-9)
            assert tensor.distortion.snr_db == pytest.approx(-20 * np.log10(relative), rel=1e-9)
            signal, noise = signal + (values**2).sum(), noise + (error**2).sum()
    assert result.totals.relative_error == pytest.approx((noise / signal) ** 0.5, rel=1e-9)
    # 5 bits a weight, but for the norms' 16.
    assert result.totals.bits_per_weight == pytest.approx(5.0, abs=0.05)
    assert result.totals.source_bits_per_weight == 16


def test_a_model_has_no_distance_from_itself(golden: Path) -> None:
    for name in ("gemma-mqa", "gemma-mqa-JQ4"):
        result = verify(golden / name, golden / name, [TEXT], OPTIONS)
        assert all(t.distortion is None for t in result.tensors)
        assert result.run.layers == (0.0,) * 4
