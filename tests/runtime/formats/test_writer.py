"""Writing: what Jlama and the safetensors library accept, and nothing that is incomplete."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from cg.runtime.dtypes import DType
from cg.runtime.errors import BlockShapeError, DuplicateNameError, HeaderTooLargeError
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.formats.writer import MAX_WRITTEN_HEADER, SafetensorsWriter, TensorSpec, file_size

Q4 = TensorSpec("b.weight", DType.Q4, (2, 64))
F32 = TensorSpec("a", DType.F32, (3,))


def write(path: Path, specs: list[TensorSpec], metadata: dict[str, str], seed: int = 0) -> dict[str, bytes]:
    """A file of random bytes; what was written, by stored name."""
    rng = np.random.default_rng(seed)
    written: dict[str, bytes] = {}
    with SafetensorsWriter(path, specs, metadata) as writer:
        for spec in specs:
            for name, size in ((spec.name, spec.data_bytes), (spec.name + ".qb", spec.scale_bytes)):
                if name.endswith(".qb") and not spec.dtype.is_quantized:
                    continue
                content = rng.integers(0, 256, size, dtype=np.uint8)
                cut = int(rng.integers(0, size + 1))
                writer.write(name, cut, content[cut:])
                writer.write(name, 0, content[:cut])
                written[name] = content.tobytes()
        writer.finish(metadata)
    assert path.stat().st_size == file_size(specs, metadata)
    return written


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(
    lambda n: not n.endswith(".qb") and n != "__metadata__" and n.isprintable()
)
plain = st.builds(
    TensorSpec,
    names,
    st.sampled_from([d for d in DType if not d.is_quantized]),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
)
blocks = st.builds(
    lambda n, d, rows, groups: TensorSpec(n, d, (rows, 32 * groups)),
    names,
    st.sampled_from([DType.Q4, DType.I8]),
    st.integers(0, 5),
    st.integers(0, 3),
)
specs_lists = st.lists(plain | blocks, max_size=6, unique_by=lambda s: s.name)
metadata_dicts = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=9),
    st.text(st.characters(codec="utf-8"), max_size=30),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(specs=specs_lists, metadata=metadata_dicts, seed=st.integers(0, 99))
def test_round_trip(specs: list[TensorSpec], metadata: dict[str, str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        written = write(path, specs, metadata, seed)
        with SafetensorsFile(path) as f:
            assert f.metadata == metadata
            assert {t.name: (t.dtype, t.shape) for t in f.tensors.values()} == {
                s.name: (s.dtype, s.shape) for s in specs
            }
            assert {name: bytes(t.data) for name, t in f.stored.items()} == written
            assert f.header.data_start % 64 == 0


def test_layout_is_what_jlama_demands(tmp_path: Path) -> None:
    write(tmp_path / "x", [Q4, F32], {"format": "pt"})
    content = (tmp_path / "x").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % 64 == 0
    assert header == {
        "__metadata__": {"format": "pt"},
        "b.weight": {"dtype": "Q4", "shape": [2, 64], "data_offsets": [0, 64]},
        "b.weight.qb": {"dtype": "F32", "shape": [2, 2], "data_offsets": [64, 80]},
        "a": {"dtype": "F32", "shape": [3], "data_offsets": [80, 92]},
    }
    assert len(content) == 8 + length + 92


def test_safetensors_library_reads_files_without_blocks(tmp_path: Path) -> None:
    specs = [
        F32,
        TensorSpec("b", DType.BF16, (2, 3)),
        TensorSpec("c", DType.U8, ()),
        TensorSpec("d", DType.F16, (0,)),
    ]
    written = write(tmp_path / "x", specs, {"k": "é"})
    with safe_open(tmp_path / "x", framework="pt") as f:
        assert f.metadata() == {"k": "é"}
        assert set(f.keys()) == set(written)
        for name, content in written.items():
            tensor = f.get_tensor(name)
            assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == content


def test_header_must_fit_into_what_jlama_maps(tmp_path: Path) -> None:
    many = [TensorSpec(f"layer.{i:06d}.weight", DType.F32, (0,)) for i in range(16_000)]
    with pytest.raises(HeaderTooLargeError, match="16000 tensors"):
        SafetensorsWriter(tmp_path / "x", many, {})
    assert not (tmp_path / "x").exists()
    assert MAX_WRITTEN_HEADER == 1_048_568


def test_names_must_differ(tmp_path: Path) -> None:
    for specs in ([F32, F32], [Q4, TensorSpec("b.weight.qb", DType.F32, (1,))]):
        with pytest.raises(DuplicateNameError):
            SafetensorsWriter(tmp_path / "x", specs, {})


def test_blocks_must_be_whole() -> None:
    with pytest.raises(BlockShapeError):
        file_size([TensorSpec("a", DType.Q4, (2, 33))], {})


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        SafetensorsWriter(tmp_path / "x", [F32], {})
    assert (tmp_path / "x").read_bytes() == b"precious"


def test_an_incomplete_file_cannot_be_finished(tmp_path: Path) -> None:
    with SafetensorsWriter(tmp_path / "x", [F32], {}) as writer:
        writer.write("a", 0, np.zeros(2, np.float32))
        with pytest.raises(ValueError, match="before it was complete"):
            writer.finish({})


def test_metadata_may_change_but_not_grow(tmp_path: Path) -> None:
    with SafetensorsWriter(tmp_path / "x", [F32], {"sum": "0" * 64}) as writer:
        writer.write("a", 0, np.arange(3, dtype=np.float32))
        with pytest.raises(ValueError, match="before it was complete"):
            writer.finish({"sum": "0" * 640})
        writer.finish({"sum": "f" * 64})
    with SafetensorsFile(tmp_path / "x") as f:
        assert f.metadata == {"sum": "f" * 64}
        assert f.tensors["a"].storage().tolist() == [0, 1, 2]


@pytest.mark.parametrize("window", [64, 1000, 4096])
def test_pieces_that_cross_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr("cg.runtime.formats.writer._WINDOW", window)
    specs = [Q4, F32, TensorSpec("c", DType.BF16, (40, 96)), TensorSpec("d", DType.I8, (9, 320))]
    written = write(tmp_path / "model.safetensors", specs, {"k": "v"})
    with SafetensorsFile(tmp_path / "model.safetensors") as file:
        assert {name: tensor.data.tobytes() for name, tensor in file.stored.items()} == written


def test_a_part_written_twice_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cg.runtime.formats.writer._WINDOW", 4)
    with SafetensorsWriter(tmp_path / "f", [TensorSpec("a", DType.F32, (2,))], {}) as writer:
        writer.write("a", 0, np.ones(1, np.float32))
        with pytest.raises(ValueError, match="twice"):
            writer.write("a", 0, np.ones(1, np.float32))


def test_large_files_are_written_in_whole_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lets the system keep a file in huge pages."""
    rows = 5000
    with SafetensorsWriter(tmp_path / "f", [TensorSpec("a", DType.Q4, (rows, 2048))], {}) as writer:
        seen: list[tuple[int, int]] = []
        whole = writer._write_all

        def watch(content: bytearray) -> None:
            seen.append((writer._file.tell(), len(content)))
            whole(content)

        monkeypatch.setattr(writer, "_write_all", watch)
        for start in range(0, rows, 700):
            stop = min(start + 700, rows)
            writer.write("a", start * 1024, np.zeros((stop - start, 1024), np.uint8))
            writer.write("a.qb", start * 256, np.zeros((stop - start, 64), np.float32))
        writer.finish({})
        assert all(at % (2 << 20) == 0 for at, _ in seen)
        assert [size for _, size in sorted(seen)[:-1]] == [2 << 20] * (len(seen) - 1)
