"""What a calibrated quantization has done so far, on disk: a killed run goes on where it stopped.

A folder beside the output, named after a hash of everything that the result depends on, holds the blocks of
every group of matrices that is done, and the hidden states that the next one needs. Files appear complete
or not at all.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from cg.runtime.cache_file import keep, prune, replacing
from cg.runtime.errors import FormatError
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.formats.writer import SafetensorsWriter, TensorSpec
from cg.runtime.tensor import Floats, Tensor

__all__ = ["LayerFiles", "kept_work"]

_LOSSES = "losses.json"


def kept_work(target: Path) -> list[Path]:
    """Folders with the work of runs to the output ``target`` that did not come to their end."""
    target = target.resolve()
    return sorted(target.parent.glob(f".{glob.escape(target.name)}.work-*"))


class LayerFiles:
    """The folder of one quantization; :attr:`resumed` tells whether there was something in it."""

    def __init__(self, target: Path, identity: Mapping[str, Any]) -> None:
        """Of the output ``target``. Whoever writes that holds its lock, so nobody else is here."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self._target = target
        self.folder = target.with_name(f".{target.name}.work-{digest}")
        self.folder.mkdir(exist_ok=True)
        prune((), self.folder, most=0)
        self.nbytes = sum(file.stat().st_size for file in self.folder.iterdir())
        """Of what an earlier run left."""
        self.resumed = any(self.folder.iterdir())
        self._open: list[SafetensorsFile] = []

    def has_hidden(self, model: str, place: int) -> bool:
        """Whether a model's hidden states at a place are kept."""
        return self._hidden(model, place).exists()

    def hidden(self, model: str, place: int) -> Floats:
        """They, ``[rows, context, hidden_size]``, mapped."""
        states: Floats = np.load(self._hidden(model, place), mmap_mode="r")
        return states

    def keep_hidden(self, model: str, place: int, shape: tuple[int, ...], states: Iterable[Floats]) -> None:
        """Keep hidden states, row by row; those at the place before go.

        They are written, not mapped: on a full disk that is an error and not the process's end.
        """
        header = {"descr": np.dtype("<f4").str, "fortran_order": False, "shape": shape}
        with replacing(self._hidden(model, place)) as partial, partial.open("xb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for row in states:
                file.write(np.ascontiguousarray(row, "<f4").data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            self._hidden(model, place - 1).unlink()

    def group(self, label: str, specs: Sequence[TensorSpec]) -> Mapping[str, Tensor] | None:
        """The tensors of a group of matrices, mapped, if it is done."""
        try:
            file = SafetensorsFile(self._group(label))
            tensors = file.tensors
        except FormatError:  # missing, or cut by a failing disk: made anew
            return None
        if [(t.name, t.dtype, t.shape) for t in tensors.values()] != [
            (s.name, s.dtype, s.shape) for s in specs
        ]:
            return None
        self._open.append(file)
        return tensors

    @contextmanager
    def new_group(self, label: str, specs: Sequence[TensorSpec]) -> Iterator[SafetensorsWriter]:
        """A file for the tensors of a group."""
        with replacing(self._group(label)) as partial, SafetensorsWriter(partial, specs, {}) as writer:
            yield writer
            writer.finish({})

    def losses(self) -> dict[str, float]:
        """What groups of matrices were found to lose, by their names."""
        try:
            found: dict[str, float] = json.loads((self.folder / _LOSSES).read_bytes())
        except (OSError, ValueError):  # not begun, or cut by a failing disk: measured anew
            return {}
        return found

    def keep_losses(self, losses: Mapping[str, float]) -> None:
        """Remember them."""
        keep(self.folder / _LOSSES, json.dumps(losses).encode())

    def remove(self) -> None:
        """The output is complete: forget the work for it, that of runs with other options too."""
        self.close()
        for folder in kept_work(self._target):
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Close the files; a folder in which nothing was kept goes."""
        for file in self._open:
            file.close()
        self._open.clear()
        with suppress(OSError):
            self.folder.rmdir()

    def _hidden(self, model: str, place: int) -> Path:
        return self.folder / f"hidden-{model}-{place}.npy"

    def _group(self, label: str) -> Path:
        return self.folder / f"{label.replace(' ', '-').replace(',', '')}.safetensors"
