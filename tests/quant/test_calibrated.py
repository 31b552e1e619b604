"""Calibrated quantization of the bundled model: better, resumable, the same whatever happens on the way."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cg.quant import QuantizeOptions, QuantizeProgress, quantize
from cg.quant.evaluation_text import read_held_out
from cg.quant.overlap import SKETCH_KEY
from cg.quant.verify import VerifyOptions, verify
from cg.runtime.dtypes import DType
from cg.runtime.errors import (
    CalibrationOverlapError,
    CheckpointError,
    DiskFullError,
    NonFiniteError,
    TokenizerError,
    UsageError,
)
from cg.runtime.formats.checkpoint import SINGLE_NAME, Checkpoint

GPTQ = QuantizeOptions(method="gptq", embed="keep", calibration_tokens=2048)


class KilledError(Exception):
    """Stands for whatever ends a run."""


def divergence(quantized: Path, original: Path) -> float:
    options = VerifyOptions(chunks=6, holes=0, activations="f32")
    return verify(quantized, original, options=options).figures.mean_kld.value


def work_folders(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if ".work-" in p.name]


@pytest.fixture(scope="module")
def gptq(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's layers by GPTQ."""
    return quantize(demo, tmp_path_factory.mktemp("gptq") / "out", GPTQ).folder


def test_each_method_diverges_less(demo: Path, gptq: Path, tmp_path: Path) -> None:
    absmax = quantize(demo, tmp_path / "absmax", QuantizeOptions(embed="keep")).folder
    options = QuantizeOptions(method="search", embed="keep", calibration_tokens=2048)
    search = quantize(demo, tmp_path / "search", options).folder
    worst = divergence(absmax, demo)
    assert divergence(search, demo) < worst
    assert divergence(gptq, demo) < 0.6 * worst
    sizes = {(folder / SINGLE_NAME).stat().st_size // 100_000 for folder in (absmax, search, gptq)}
    assert len(sizes) == 1


def test_the_file_tells_what_it_was_calibrated_on(gptq: Path) -> None:
    with Checkpoint.open(gptq) as checkpoint:
        metadata = checkpoint.metadata
        dtypes = {name: t.dtype for name, t in checkpoint.tensors.items()}
    assert metadata["cg.method"] == "gptq"
    assert metadata["cg.calibration"] == "bundled calibration text"
    assert metadata["cg.calibration_tokens"] == "2048"
    assert len(metadata[SKETCH_KEY]) < 40_000
    assert dtypes["model.embed_tokens.weight"] is DType.BF16
    assert dtypes["model.layers.0.mlp.up_proj.weight"] is DType.Q4
    assert not work_folders(gptq.parent)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(demo: Path, gptq: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for place in ("layer 2 of 6, mlp.gate_proj: rounding", "layer 4 of 6: outputs"):

        def stop(state: QuantizeProgress, place: str = place) -> None:
            if state.what == place:
                raise KilledError

        with pytest.raises(KilledError):
            quantize(demo, out, GPTQ, stop)
        assert not out.exists()
        assert len(work_folders(tmp_path)) == 1
    result = quantize(demo, out, GPTQ)
    assert any("going on where an earlier run" in note for note in result.notes)
    assert (out / SINGLE_NAME).read_bytes() == (gptq / SINGLE_NAME).read_bytes()
    assert not work_folders(tmp_path)


def test_a_full_disk_is_told_and_costs_nothing(
    demo: Path, gptq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While hidden states are written, and then before the next run begins, which needs so much less."""
    with monkeypatch.context() as patch:
        room = iter([None] * 12)

        def fsync(_: int) -> None:
            if next(room, "none") == "none":
                raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", fsync)
        with pytest.raises(DiskFullError, match="the disk ran full"):
            quantize(demo, tmp_path / "out", GPTQ)
    (work,) = work_folders(tmp_path)
    kept = sum(file.stat().st_size for file in work.iterdir())
    assert kept > 0
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        needed = []
        for name in ("out", "other"):
            with pytest.raises(DiskFullError, match="0 free") as caught:
                quantize(demo, tmp_path / name, GPTQ)
            needed.append(int(re.findall(r"needs ([\d,]+) bytes", str(caught.value))[0].replace(",", "")))
    assert needed[1] - needed[0] == kept
    quantize(demo, tmp_path / "out", GPTQ)
    assert (tmp_path / "out" / SINGLE_NAME).read_bytes() == (gptq / SINGLE_NAME).read_bytes()


def test_other_options_do_not_take_over_the_work(demo: Path, gptq: Path, tmp_path: Path) -> None:
    def stop(state: QuantizeProgress) -> None:
        if state.what.startswith("layer 2"):
            raise KilledError

    with pytest.raises(KilledError):
        quantize(demo, tmp_path / "out", QuantizeOptions(method="search", embed="keep"), stop)
    result = quantize(demo, tmp_path / "out", GPTQ)
    assert not result.notes
    assert (tmp_path / "out" / SINGLE_NAME).read_bytes() == (gptq / SINGLE_NAME).read_bytes()
    assert not work_folders(tmp_path)  # nobody needs them any more


def test_damaged_work_is_made_anew_or_told_of(demo: Path, gptq: Path, tmp_path: Path) -> None:
    def stop(state: QuantizeProgress) -> None:
        if state.what == "layer 1 of 6, mlp.down_proj: rounding":
            raise KilledError

    with pytest.raises(KilledError):
        quantize(demo, tmp_path / "out", GPTQ, stop)
    (work,) = work_folders(tmp_path)
    cut = sorted(work.glob("*.safetensors"))[0]
    cut.write_bytes(cut.read_bytes()[:1000])
    quantize(demo, tmp_path / "out", GPTQ)
    assert (tmp_path / "out" / SINGLE_NAME).read_bytes() == (gptq / SINGLE_NAME).read_bytes()


def test_threads_do_not_change_the_bytes(demo: Path, gptq: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(method="gptq", embed="keep", calibration_tokens=2048, threads=1)
    quantize(demo, tmp_path / "out", options)
    assert (tmp_path / "out" / SINGLE_NAME).read_bytes() == (gptq / SINGLE_NAME).read_bytes()


def test_half_scales(demo: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(method="gptq", scales="f16", calibration_tokens=1024)
    quantize(demo, tmp_path / "out", options)
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        quantized = [t for t in checkpoint.tensors.values() if t.scales is not None]
        assert len(quantized) == 43
        for tensor in quantized:
            assert tensor.scales is not None
            half = tensor.scales.astype(np.float16)
            np.testing.assert_array_equal(half.astype(np.float32), tensor.scales)


def test_search_without_calibration_takes_any_matrices(golden: Path, tmp_path: Path) -> None:
    """No model, no tokenizer: every block for itself."""
    plain, searched = tmp_path / "plain", tmp_path / "searched"
    before = quantize(golden / "gemma-mha-wide", plain).totals
    options = QuantizeOptions(method="search", calibration_tokens=0)
    after = quantize(golden / "gemma-mha-wide", searched, options).totals
    assert after.bytes == before.bytes
    assert after.relative_error is not None
    assert before.relative_error is not None
    assert after.relative_error < 0.95 * before.relative_error


def test_embedding_of_another_type(demo: Path, tmp_path: Path) -> None:
    quantize(demo, tmp_path / "out", QuantizeOptions(embed="i8"))
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.tensors["model.embed_tokens.weight"].dtype is DType.I8
        assert checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].dtype is DType.Q4


def test_verifying_on_the_calibration_text_is_refused(demo: Path, tmp_path: Path) -> None:
    text = tmp_path / "mine.py"
    text.write_text(read_held_out().text[:40_000], "utf-8")
    options = QuantizeOptions(method="search", calibrate=(text,), calibration_tokens=1024)
    quantize(demo, tmp_path / "out", options)
    with pytest.raises(CalibrationOverlapError, match="calibrated on"):
        verify(tmp_path / "out", demo, options=VerifyOptions(chunks=1, holes=0))
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.metadata["cg.calibration"] == "1 files"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (QuantizeOptions(scales="f16"), "f16 does not hold them"),
        (QuantizeOptions(calibrate=(Path("a"),)), "absmax is not calibrated"),
        (QuantizeOptions(method="gptq", allow_nonfinite=True), "only absmax encodes NaN"),
        (QuantizeOptions(method="gptq", calibration_tokens=0), "0 tokens to calibrate on"),
        (QuantizeOptions(embed="i8", jlama_runnable=True), "cannot be kept and be quantized"),
        (QuantizeOptions(method="gptq", calibration_tokens=100), "fewer than one row"),
        (QuantizeOptions(method="gptq", calibrate=(Path("missing.py"),)), "cannot read missing.py"),
    ],
)
def test_impossible_options(options: QuantizeOptions, message: str, demo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        quantize(demo, tmp_path / "out", options)
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_run(golden: Path, demo: Path, tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, TokenizerError)):
        quantize(golden / "edge", tmp_path / "out", GPTQ)
    source = tmp_path / "source"
    shutil.copytree(demo, source)
    for name in ("tokenizer.json", "tokenizer.model"):
        (source / name).unlink()
    with pytest.raises(TokenizerError):
        quantize(source, tmp_path / "out", GPTQ)


def test_nan_in_a_weight(demo: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(demo, source)
    with Checkpoint.open(demo) as checkpoint:
        tensors = {name: t.dequantize().reshape(t.shape) for name, t in checkpoint.tensors.items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    (source / SINGLE_NAME).unlink()
    save_file(tensors, source / SINGLE_NAME)
    assert np.isnan(load_file(source / SINGLE_NAME)["model.layers.1.mlp.up_proj.weight"][3, 5])
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp\.up_proj"):
        quantize(source, tmp_path / "out", GPTQ)
    assert not (tmp_path / "out").exists()


def test_the_report_is_plain(demo: Path, tmp_path: Path) -> None:
    result = quantize(demo, tmp_path / "out", QuantizeOptions(method="search", calibration_tokens=1024))
    json.loads(json.dumps(result.to_json(), allow_nan=False))
