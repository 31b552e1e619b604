"""The side file of f16 scales: what goes into it, when it is used, and what becomes of a damaged one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cg.quant import QuantizeOptions, optimize, quantize, remove_scales
from cg.quant.half_scales import exact_halves
from cg.runtime import load
from cg.runtime.cache import KVCache
from cg.runtime.dtypes import DType
from cg.runtime.errors import DiskFullError, OutputError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.formats.writer import SafetensorsWriter, TensorSpec
from cg.runtime.home import optimized_file
from cg.runtime.loading import load_gemma
from cg.runtime.optimized import SWITCH, OptimizedScales, open_scales

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def quantized(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mqa-q4"
    quantize(golden / "gemma-mqa", folder)
    return folder


@pytest.fixture
def model(quantized: Path, tmp_path: Path) -> Path:
    """A Q4 model whose scales f16 holds, all of them."""
    return Path(shutil.copytree(quantized, tmp_path / "mqa-q4"))


def side(model: Path) -> Path:
    file = optimized_file(model)
    assert file is not None
    return file


def found(model: Path) -> OptimizedScales:
    with Checkpoint.open(model) as checkpoint:
        return open_scales(checkpoint)


def change_scale(model: Path, name: str, value: float, place: int) -> None:
    """One scale of a tensor, in the file."""
    file = model / "model.safetensors"
    with SafetensorsFile(file) as opened:
        (entry,) = (e for e in opened.header.entries if e.name == name + ".qb")
    with file.open("r+b") as stream:
        stream.seek(entry.begin + 4 * place if place >= 0 else entry.end + 4 * place)
        stream.write(struct.pack("<f", value))


@pytest.mark.parametrize(
    ("scale", "exact"),
    [
        (0.0, True), (-0.0, True), (1.0, True), (-0.0546875, True), (65504.0, True), (2.0**-24, True),
        (-3 * 2.0**-24, True), (1023 * 2.0**-24, True), (65505.0, False), (65536.0, False), (0.1, False),
        (2.0**-25, False), (2.0**-149, False), (1.5 * 2.0**-24, False), (1 + 2.0**-11, False),
        (float("nan"), False), (float("inf"), False), (float("-inf"), False),
    ],
)  # fmt: skip
def test_what_f16_holds(scale: float, exact: bool) -> None:
    halves, inexact = exact_halves(np.array([[1.0, scale]], np.float32))
    assert inexact == (0 if exact else 1)
    if exact:
        assert halves.astype(np.float32)[0, 1].tobytes() == np.float32(scale).tobytes()


def test_every_f16_number_is_found_exact() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(np.float16)
    finite = np.isfinite(halves)
    back, inexact = exact_halves(halves[finite].astype(np.float32))
    assert inexact == 0
    np.testing.assert_array_equal(back.view(np.uint16), bits[finite])
    assert exact_halves(halves[~finite].astype(np.float32))[1] == np.count_nonzero(~finite)


def test_file_and_report(model: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    result = optimize(model, progress=lambda *state: calls.append(state))
    assert result.written
    assert result.file == side(model)
    assert result.left == ()
    assert result.bytes == result.file.stat().st_size
    assert (round(result.bits_per_weight_before, 2), round(result.bits_per_weight, 2)) == (5.01, 4.51)
    assert calls[-1][1] == calls[-1][2]
    with SafetensorsFile(result.file) as file, Checkpoint.open(model) as checkpoint:
        assert file.header.data_start % 64 == 0
        assert file.metadata["cg.optimized"] == "1"
        (shard,) = json.loads(file.metadata["cg.shards"])
        assert shard["name"] == "model.safetensors"
        assert shard["size"] == (model / "model.safetensors").stat().st_size
        q4 = [t for t in checkpoint.tensors.values() if t.dtype is DType.Q4]
        assert result.converted == len(q4) == len(file.stored)
        for tensor in q4:
            stored = file.stored[f"{tensor.name}.qb"]
            assert stored.dtype is DType.F16
            assert tensor.scales is not None
            wide = stored.storage().astype(np.float32)
            np.testing.assert_array_equal(wide.view(np.uint32), tensor.scales.view(np.uint32))
    assert list(side(model).parent.iterdir()) == [side(model)]


def test_again_it_is_there_already(model: Path) -> None:
    first = optimize(model)
    time = first.file.stat().st_mtime_ns
    again = optimize(model)
    assert not again.written
    assert (again.converted, again.bytes, again.bits_per_weight) == (
        first.converted, first.bytes, first.bits_per_weight,
    )  # fmt: skip
    assert first.file.stat().st_mtime_ns == time
    assert optimize(model, overwrite=True).written
    assert first.file.stat().st_mtime_ns != time


def test_tensors_with_other_scales_are_left(model: Path) -> None:
    change_scale(model, EMBEDDING, 0.1, 3)
    result = optimize(model)
    (left,) = result.left
    assert left.name == EMBEDDING
    assert left.reason.startswith("f16 does not hold 1 of its ")
    scales = found(model)
    assert EMBEDDING not in scales.tensors
    assert len(scales.tensors) == result.converted
    assert [t.name for t in optimize(model).left] == [EMBEDDING]


def test_nothing_to_convert(model: Path, golden: Path) -> None:
    with pytest.raises(UsageError, match="has no Q4 tensors") as caught:
        optimize(golden / "gemma-mqa")
    assert "cg quantize" in str(caught.value.hint)
    with Checkpoint.open(model) as checkpoint:
        names = [t.name for t in checkpoint.tensors.values() if t.dtype is DType.Q4]
    for name in names:
        change_scale(model, name, float("nan"), 0)
    with pytest.raises(UsageError, match="f16 does not hold all scales of any"):
        optimize(model)
    assert not side(model).exists()


def logits(model: Path, threads: int, count: int) -> np.ndarray:
    with Checkpoint.open(model) as checkpoint:
        gemma = load_gemma(checkpoint, backend="native", threads=threads, scales=open_scales(checkpoint))
        cache = KVCache(gemma.config, 64)
        prompt = np.arange(1, count + 1, dtype=np.int32)
        return gemma.forward(prompt, cache, last_only=False)


@pytest.mark.parametrize("count", [1, 3, 8, 30])
@pytest.mark.parametrize("left", [(), (EMBEDDING, "model.layers.0.self_attn.v_proj.weight")])
def test_logits_are_the_same_to_the_bit(
    model: Path, count: int, left: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in left:
        change_scale(model, name, 0.1, 3)
    plain = logits(model, 2, count)
    optimize(model)
    assert found(model).state == "fits"
    np.testing.assert_array_equal(logits(model, 2, count), plain)
    np.testing.assert_array_equal(logits(model, 1, count), plain)
    monkeypatch.setenv(SWITCH, "0")
    assert found(model).state == "off"
    np.testing.assert_array_equal(logits(model, 2, count), plain)


def test_demo_generates_the_same(demo: Path, tmp_path: Path) -> None:
    """The bundled model in Q4, as ``cg demo`` makes it."""
    folder = tmp_path / "demo-q4"
    quantize(demo, folder)

    def tokens() -> list[int]:
        with load(folder) as model:
            return model.generate("def mean(values):\n", max_tokens=48).ids

    plain = tokens()
    assert optimize(folder).left == ()
    with load(folder) as model:
        table = model.engine.model.embed_tokens
        assert table.scales is not None
        assert table.scales.dtype == np.float16
        assert model.warning is None
    assert tokens() == plain


def test_only_native_takes_them(model: Path) -> None:
    optimize(model)
    with Checkpoint.open(model) as checkpoint:
        gemma = load_gemma(checkpoint, backend="numpy", scales=open_scales(checkpoint))
        assert gemma.embed_tokens.scales is not None
        assert gemma.embed_tokens.scales.dtype == np.float32


def requantize(model: Path) -> None:
    original = Path(__file__).parent.parent / "golden" / "gemma-mqa"
    quantize(original, model, QuantizeOptions(keep=("norm", "embed"), overwrite=True))


def touch(model: Path) -> None:
    file = model / "model.safetensors"
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1))


def other_scales(place: int) -> Callable[[Path], None]:
    """Same size, header and time: what only a look at the scales tells."""

    def change(model: Path) -> None:
        file = model / "model.safetensors"
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        change_scale(model, EMBEDDING, 0.5, place)
        os.utime(file, ns=times)

    return change


@pytest.mark.parametrize(
    "change", [requantize, touch, other_scales(0), other_scales(-1)], ids=["anew", "time", "first", "last"]
)
def test_other_weights(model: Path, change: Callable[[Path], None]) -> None:
    optimize(model)
    change(model)
    scales = found(model)
    assert (scales.state, dict(scales.tensors)) == ("stale", {})
    assert scales.warning == (
        f"the optimized scales of {model} belong to other weights; run cg optimize again"
    )
    with load(model, backend="native") as loaded:
        assert loaded.warning == scales.warning
    with load(model, backend="numpy") as loaded:
        assert loaded.warning is None
    assert optimize(model).written
    assert found(model).state == "fits"


def test_another_folder_has_its_own(model: Path, tmp_path: Path) -> None:
    optimize(model)
    other = tmp_path / "copy"
    shutil.copytree(model, other)
    assert found(other).state == "none"
    link = tmp_path / "link"
    link.symlink_to(model, target_is_directory=True)
    assert found(link).state == "fits"


def rewrite(file: Path, name: str, dtype: DType, shape: tuple[int, ...]) -> None:
    """The side file with the right metadata and one tensor."""
    with SafetensorsFile(file) as opened:
        metadata = dict(opened.metadata)
    file.unlink()
    spec = TensorSpec(name, dtype, shape)
    with SafetensorsWriter(file, [spec], metadata) as writer:
        writer.write(name, 0, np.zeros(spec.data_bytes, np.uint8))
        writer.finish(metadata)


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda f: f.write_bytes(b""),
    "short": lambda f: f.write_bytes(f.read_bytes()[:100]),
    "cut": lambda f: f.write_bytes(f.read_bytes()[:-1]),
    "long": lambda f: f.write_bytes(f.read_bytes() + b"\0"),
    "noise": lambda f: f.write_bytes(bytes(range(256)) * 20),
    "deep": lambda f: f.write_bytes(struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995),
    "folder": folder_instead,
    "unknown tensor": lambda f: rewrite(f, "model.nothing.weight.qb", DType.F16, (4, 2)),
    "not scales": lambda f: rewrite(f, EMBEDDING, DType.F16, (4, 2)),
    "of a norm": lambda f: rewrite(f, "model.norm.weight.qb", DType.F16, (4, 2)),
    "shape": lambda f: rewrite(f, f"{EMBEDDING}.qb", DType.F16, (4, 2)),
    "dtype": lambda f: rewrite(f, f"{EMBEDDING}.qb", DType.F32, (640, 8)),
    "vector": lambda f: rewrite(f, f"{EMBEDDING}.qb", DType.F16, (640 * 8,)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_damaged_files_are_ignored(model: Path, damage: Callable[[Path], object]) -> None:
    optimize(model)
    damage(side(model))
    scales = found(model)
    assert (scales.state, dict(scales.tensors)) == ("damaged", {})
    assert str(scales.warning).startswith(f"the optimized scales of {model} cannot be used: ")
    assert str(scales.warning).endswith("; run cg optimize again")
    with load(model) as loaded:
        assert loaded.generate("x", max_tokens=2).ids


def test_another_format_is_stale(model: Path) -> None:
    file = optimize(model).file
    file.write_bytes(file.read_bytes().replace(b'"cg.optimized":"1"', b'"cg.optimized":"2"'))
    assert found(model).state == "stale"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_full_disk(model: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(SafetensorsWriter, "finish", fail)
    expected = DiskFullError if code == errno.ENOSPC else OutputError
    with pytest.raises(expected):
        optimize(model)
    assert list(side(model).parent.iterdir()) == []


def test_interrupted(model: Path) -> None:
    def stop(_name: str, done: int, total: int) -> None:
        if done > total // 2:  # some of it is written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(model, progress=stop)
    assert list(side(model).parent.iterdir()) == []
    assert found(model).state == "none"


def test_model_that_changes_meanwhile(model: Path) -> None:
    """What was read of the old weights is never taken for the new ones'."""
    with pytest.raises(OutputError, match="changed while its scales were written"):
        optimize(model, progress=lambda *_: touch(model))
    assert found(model).state == "stale"


def test_folder_that_cannot_be_made(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CG_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot be written"):
        optimize(model)
    assert found(model).state == "none"


def test_without_a_home(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("CG_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(OutputError, match="no home folder") as caught:
        optimize(model)
    assert "CG_HOME" in str(caught.value.hint)
    assert found(model).state == "none"


def test_concurrent_writers(model: Path) -> None:
    code = "import sys; from pathlib import Path; from cg.quant import optimize\n"
    code += "for _ in range(5): optimize(Path(sys.argv[1]), overwrite=True)"
    runs = [subprocess.Popen([sys.executable, "-c", code, str(model)]) for _ in range(3)]
    while any(run.poll() is None for run in runs):
        assert found(model).state in ("none", "fits")
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert list(side(model).parent.iterdir()) == [side(model)]


def test_remove(model: Path) -> None:
    assert remove_scales(model) is None
    file = optimize(model).file
    assert remove_scales(model) == file
    assert not file.exists()
    assert found(model).state == "none"
