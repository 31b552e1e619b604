"""Whole checkpoints: what Jlama makes of them, and what a user is told."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from cg import __version__
from cg.quant import QuantizeOptions, QuantizeProgress, quantize
from cg.quant.plan import JLAMA_KEEP
from cg.runtime.dtypes import DType
from cg.runtime.errors import CheckpointError, NonFiniteError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.safetensors import SafetensorsFile

MakeSource = Callable[..., Path]


@pytest.fixture
def make_source(tmp_path: Path) -> MakeSource:
    """``make_source(tensors, **config)``: a checkpoint folder with these f32 arrays."""

    def build(tensors: dict[str, Any], **config: Any) -> Path:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "gemma", **config}))
        save_file(tensors, folder / "model.safetensors")
        return folder

    return build


def edge_folder(golden: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "edge"
    folder.mkdir()
    shutil.copy(golden / "edge" / "model.safetensors", folder)
    (folder / "config.json").write_text("{}")
    return folder


def assert_same_tensors(ours: Path, jlamas: Path) -> None:
    with Checkpoint.open(ours) as a, SafetensorsFile(jlamas / "model.safetensors") as b:
        assert set(a.tensors) == set(b.tensors)
        for name, expected in b.tensors.items():
            mine = a.tensors[name]
            assert mine.dtype is expected.dtype, name
            assert mine.size == expected.size
            assert mine.data.tobytes() == expected.data.tobytes(), name
            if expected.scales is not None:
                assert mine.scales is not None
                assert mine.scales.tobytes() == expected.scales.tobytes(), name


@pytest.mark.parametrize(
    ("source", "jlamas", "options"),
    [
        ("gemma-mqa", "gemma-mqa-JQ4-embed", QuantizeOptions()),
        ("gemma-mqa", "gemma-mqa-JQ4", QuantizeOptions(keep=JLAMA_KEEP)),
        ("gemma-mqa", "gemma-mqa-JQ4", QuantizeOptions(jlama_runnable=True)),
        ("gemma-mha-wide", "gemma-mha-wide-JQ4", QuantizeOptions()),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_same_tensors_as_jlama(
    golden: Path, tmp_path: Path, source: str, jlamas: str, options: QuantizeOptions, threads: int
) -> None:
    result = quantize(golden / source, tmp_path / "out", replace(options, threads=threads))
    assert_same_tensors(tmp_path / "out", golden / jlamas)
    assert result.threads == threads
    assert result.notes == ()


@pytest.mark.parametrize("kind", ["q4", "i8"])
def test_same_tensors_as_jlama_on_edge_cases(golden: Path, tmp_path: Path, kind: Any) -> None:
    options = QuantizeOptions(kind, keep=("input_layernorm",), allow_nonfinite=True)
    quantize(edge_folder(golden, tmp_path), tmp_path / "out", options)
    assert_same_tensors(tmp_path / "out", golden / f"edge-{kind.upper()}")


def test_nonfinite_tensors_are_refused_by_name(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"f\.nonfinite\.weight .* row 0, column") as caught:
        quantize(edge_folder(golden, tmp_path), tmp_path / "out")
    assert "--allow-nonfinite" in (caught.value.hint or "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edge"]


def test_the_place_of_the_first_nonfinite_element_is_told(make_source: MakeSource, tmp_path: Path) -> None:
    matrix = np.ones((5000, 512), np.float32)  # more than one piece
    matrix[4321, 17] = np.inf
    with pytest.raises(NonFiniteError, match="row 4321, column 17"):
        quantize(make_source({"w": matrix}), tmp_path / "out")


def test_what_is_quantized_and_what_is_kept(make_source: MakeSource, tmp_path: Path) -> None:
    def ones(*shape: int, dtype: Any = np.float32) -> Any:
        return np.ones(shape, dtype)

    source = make_source(
        {
            "matrix": ones(2, 64), "half": ones(2, 32, dtype=np.float16), "vector": ones(64),
            "one_row": ones(1, 64),
            "odd": ones(2, 33), "empty": ones(0, 32), "no_columns": ones(3, 0), "cube": ones(2, 2, 32),
            "integers": ones(2, 32, dtype=np.int32), "a_norm_b": ones(2, 64), "scalar": ones(),
            "double": ones(2, 32, dtype=np.float64),
        }
    )  # fmt: skip
    result = quantize(source, tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as out, Checkpoint.open(source) as original:
        quantized = {n for n, t in out.tensors.items() if t.dtype is DType.Q4}
        assert quantized == {"matrix", "half"}
        for name, tensor in out.tensors.items():
            assert tensor.shape == original.tensors[name].shape
            if name not in quantized:
                assert tensor.dtype is original.tensors[name].dtype
                assert tensor.data.tobytes() == original.tensors[name].data.tobytes()
    assert {t.name for t in result.tensors if t.distortion is not None} == quantized


def test_keep_replaces_the_default(make_source: MakeSource, tmp_path: Path) -> None:
    tensors = {n: np.ones((2, 32), np.float32) for n in ("x.norm", "x.up", "x.down")}
    quantize(make_source(tensors), tmp_path / "out", QuantizeOptions(keep=("up", "own")))
    with Checkpoint.open(tmp_path / "out") as out:
        assert [n for n, t in out.tensors.items() if t.dtype is DType.Q4] == ["x.norm"]


def test_shards_become_one_file_in_their_order(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    shutil.copy(golden / "gemma-mqa" / "config.json", folder)
    with Checkpoint.open(golden / "gemma-mqa") as whole:
        arrays = {n: t.storage() for n, t in whole.tensors.items()}
    weight_map: dict[str, str] = {}
    for part in range(3):
        names = sorted(arrays)[part::3]
        file = f"model-{part}.safetensors"
        tensors = {n: torch.from_numpy(arrays[n].astype(np.int16)).view(torch.bfloat16) for n in names}
        save_torch(tensors, folder / file)
        weight_map.update(dict.fromkeys(names, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    result = quantize(folder, tmp_path / "out")
    assert_same_tensors(tmp_path / "out", golden / "gemma-mqa-JQ4-embed")
    for name, checksum in result.source_sha256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    assert len(result.source_sha256) == 3


def test_same_input_gives_the_same_bytes(golden: Path, tmp_path: Path) -> None:
    for name, threads in (("a", 1), ("b", 4)):
        quantize(golden / "gemma-mqa", tmp_path / name, QuantizeOptions(threads=threads))
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()
    assert (tmp_path / "a" / "README.md").read_bytes() == (tmp_path / "b" / "README.md").read_bytes()


def test_provenance(golden: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--google--codegemma-2b" / "snapshots" / ("ab" * 20)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(golden / "gemma-mqa", snapshot)
    quantize(snapshot, tmp_path / "out", QuantizeOptions(keep=("norm", "embed")))
    weights = hashlib.sha256((snapshot / "model.safetensors").read_bytes()).hexdigest()
    with Checkpoint.open(tmp_path / "out") as out:
        assert out.metadata == {
            "format": "pt",
            "cg.format": "1",
            "cg.version": __version__,
            "cg.source": "google/codegemma-2b",
            "cg.revision": "ab" * 20,
            "cg.type": "q4",
            "cg.method": "absmax",
            "cg.scales": "f32",
            "cg.keep": '["norm", "embed"]',
            "cg.jlama_runnable": "false",
            "cg.allow_nonfinite": "false",
            "cg.source_sha256": json.dumps({"model.safetensors": weights}),
        }
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: gemma\nbase_model: google/codegemma-2b\n")
    assert "ai.google.dev/gemma/terms" in card
    assert weights in card


def test_files_that_come_along(golden: Path, tmp_path: Path, demo: Path) -> None:
    quantize(demo, tmp_path / "out", QuantizeOptions())
    for name in ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (demo / name).read_bytes()
        assert not (tmp_path / "out" / name).is_symlink()


def test_report(golden: Path, tmp_path: Path) -> None:
    result = quantize(golden / "gemma-mqa", tmp_path / "out")
    assert result.file_bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert result.totals.tensors == 29
    assert result.totals.quantized_tensors == 22
    assert result.totals.source_bits_per_weight == 16
    assert 5 < result.totals.bits_per_weight < 5.02
    with Checkpoint.open(golden / "gemma-mqa") as a, Checkpoint.open(tmp_path / "out") as b:
        assert result.totals.bytes == sum(t.nbytes for t in b.tensors.values())
        for t in result.tensors:
            if t.distortion is None:
                continue
            before, after = a.tensors[t.name].dequantize(), b.tensors[t.name].dequantize()
            relative = np.linalg.norm(after - before) / np.linalg.norm(before)
            assert t.distortion.relative_error == pytest.approx(relative, rel=1e-3)
            assert t.distortion.snr_db == pytest.approx(-20 * np.log10(relative), abs=0.01)
            assert t.bits_per_weight == 5
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert plain["tensors"][0]["name"] == "model.embed_tokens.weight"
    assert plain["relative_error"] == pytest.approx(0.086, abs=0.002)


def test_progress_reaches_the_end(golden: Path, tmp_path: Path) -> None:
    seen: list[QuantizeProgress] = []
    quantize(golden / "gemma-mqa", tmp_path / "out", progress=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == 3_673_600
    assert len({p.what for p in seen}) == 29


def test_quantized_source_is_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is quantized already: .* is Q4"):
        quantize(golden / "gemma-mqa-JQ4", tmp_path / "out")


def test_nothing_to_quantize_is_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to quantize"):
        quantize(golden / "gemma-mqa", tmp_path / "out", QuantizeOptions(keep=("model",)))


def test_an_empty_pattern_is_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty keep pattern"):
        quantize(golden / "gemma-mqa", tmp_path / "out", QuantizeOptions(keep=("norm", "")))


@pytest.mark.parametrize("out", ["source", "source/inside", ".", "source/../source", "link"])
def test_output_and_source_stay_apart(make_source: MakeSource, tmp_path: Path, out: str) -> None:
    source = make_source({"w": np.ones((2, 32), np.float32)})
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UsageError, match="lie in each other"):
        quantize(source, tmp_path / out, QuantizeOptions(overwrite=True))
    assert (source / "model.safetensors").is_file()


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        quantize(tmp_path / "absent", tmp_path / "out")


def test_library_is_silent_and_does_not_need_torch(golden: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cg.quant import quantize;"
        f"quantize(Path({str(golden / 'gemma-mqa')!r}), Path({str(tmp_path / 'out')!r}));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_a_compiler_the_bytes_are_the_same(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quantize(golden / "gemma-mqa", tmp_path / "a")
    monkeypatch.setattr("cg.quant.schemes.native_problem", lambda: "not compiled")
    monkeypatch.setattr("cg.quant.convert.native_problem", lambda: "not compiled")
    second = quantize(golden / "gemma-mqa", tmp_path / "b")
    assert second.encoder == "numpy"
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    assert second.totals.relative_error == pytest.approx(first.totals.relative_error, rel=1e-5)
