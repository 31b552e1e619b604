"""Models to export: the bundled one, original and quantized, and one whose scales a test changes."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from cg.quant import QuantizeOptions, quantize
from cg.quant.export import export_gguf
from cg.runtime.cache import KVCache
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.loading import load_gemma

Change = Callable[[str, NDArray[np.float32]], Any]
"""Changes a tensor's scales in place, given its name."""


@pytest.fixture(scope="session")
def demo_q4(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in Q4, its embedding included; f16 holds all of its scales."""
    folder = tmp_path_factory.mktemp("q4") / "demo-q4"
    quantize(demo, folder)
    return folder


@pytest.fixture(scope="session")
def demo_i8(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in I8, whose scales f16 does not hold."""
    folder = tmp_path_factory.mktemp("i8") / "demo-i8"
    quantize(demo, folder, QuantizeOptions("i8"))
    return folder


@pytest.fixture
def rescaled(tmp_path: Path) -> Callable[[Path, Change], Path]:
    """A copy of a quantized folder after ``change(name, scales)`` for every quantized tensor."""

    def copy(folder: Path, change: Change) -> Path:
        target = tmp_path / "rescaled"
        shutil.copytree(folder, target)
        with SafetensorsFile(folder / "model.safetensors") as file:
            scales = [e for e in file.header.entries if e.name.endswith(".qb")]
        whole = np.fromfile(target / "model.safetensors", np.uint8)
        for entry in scales:
            values = whole[entry.begin : entry.end].view(np.float32).reshape(entry.shape)
            change(entry.name.removesuffix(".qb"), values)
        whole.tofile(target / "model.safetensors")
        return target

    return copy


@pytest.fixture
def half_scaled(rescaled: Callable[[Path, Change], Path], demo_i8: Path) -> Path:
    """The bundled model in I8 with its scales rounded to what f16 holds."""

    def to_halves(name: str, scales: NDArray[np.float32]) -> None:
        scales[:] = scales.astype(np.float16)

    return rescaled(demo_i8, to_halves)


@pytest.fixture(scope="session")
def demo_gguf(demo_q4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in Q4 as a GGUF file."""
    return export_gguf(demo_q4, tmp_path_factory.mktemp("gguf") / "demo.gguf").output


@pytest.fixture(scope="session")
def rewritten() -> Callable[..., Path]:
    """A function that copies a GGUF file with changes, through the gguf package."""
    return _rewritten


@pytest.fixture(scope="session")
def same_logits() -> Callable[[Path, Path], None]:
    """A function that compares what transformers computes with one folder and cg with another, in float32."""

    def compare(theirs: Path, ours: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        ids = [2, *np.random.default_rng(1).integers(108, 4096, 40).tolist()]
        with Checkpoint.open(ours) as checkpoint:
            model = load_gemma(checkpoint, backend="numpy", activations="f32")
            cache = KVCache(model.config, len(ids), "f32")
            wanted = model.forward(np.array(ids, np.int32), cache, last_only=False)
        other = AutoModelForCausalLM.from_pretrained(theirs, dtype=torch.float32)
        with torch.no_grad():
            found = other(torch.tensor([ids])).logits[0].numpy()
        # The same numbers summed up in another order; the logits reach 20.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)

    return compare


def _rewritten(
    file: Path,
    out: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, tuple[Any, Any] | None] | None = None,
    rename: Callable[[str], str] = str,
) -> Path:
    """A copy with other metadata (None removes a key) and tensors (array and type; None removes one)."""
    metadata, tensors = metadata or {}, tensors or {}
    reader, contents = _read(file)
    writer = gguf.GGUFWriter(out, "gemma")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = metadata[name] if name in metadata else contents[name]
        if value is not None:
            value_type, *item = field.types
            writer.add_key_value(name, value, value_type, item[0] if item else None)
    for name, value in metadata.items():
        if name not in reader.fields:
            writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
        elif name == "general.architecture":
            writer.add_string(name, value)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name in tensors:
            replaced = tensors[tensor.name]
            if replaced is None:
                continue
            data, kind = replaced
        writer.add_tensor(rename(tensor.name), np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@functools.cache  # a second for every vocabulary
def _read(file: Path) -> tuple[gguf.GGUFReader, dict[str, Any]]:
    reader = gguf.GGUFReader(file)
    return reader, {name: field.contents() for name, field in reader.fields.items()}
