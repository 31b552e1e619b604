"""Models to export: the bundled one, original and quantized, and one whose scales a test changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cg.quant import QuantizeOptions, quantize
from cg.runtime.formats.safetensors import SafetensorsFile

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
