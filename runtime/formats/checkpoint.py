"""A checkpoint folder: config.json and one safetensors file, or several with an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from cg.runtime.errors import (
    CheckpointError,
    DuplicateNameError,
    IndexPathError,
    InvalidIndexError,
    MissingShardError,
    MissingTensorError,
    UsageError,
)
from cg.runtime.formats.jlama import fold_scales
from cg.runtime.formats.preload import PreloadProgress, preload
from cg.runtime.formats.read_ahead import ReadAhead
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.formats.strict_json import read_object
from cg.runtime.free_memory import available_memory
from cg.runtime.tensor import Tensor

__all__ = ["CONFIG_NAME", "INDEX_NAME", "SINGLE_NAME", "Checkpoint"]

CONFIG_NAME = "config.json"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


class Checkpoint:
    """An open checkpoint: its config and all tensors, mapped.

    The shards of ``model.safetensors.index.json`` if it is there, else ``model.safetensors``. As in Jlama,
    all tensors of a named shard count, also those that the index leaves out, and scales may lie in
    another shard than the tensor that they belong to.
    """

    def __init__(self, folder: Path, config: dict[str, Any], shards: tuple[SafetensorsFile, ...]) -> None:
        self.folder = folder
        self.config = config
        """config.json as it is; :class:`cg.runtime.config.GemmaConfig` checks it."""
        self.shards = shards
        self.tensors: Mapping[str, Tensor] = MappingProxyType(fold_scales(_union(shards), str(folder)))
        """All tensors by name, in the order of files and data, quantized ones with their scales."""
        self._read_ahead: ReadAhead | None = None

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open and check a folder.

        Raises:
            CheckpointError: the folder, its config.json or its weights are missing or unreadable.
            FormatError: a malformed file, one subclass per cause.
        """
        if not folder.is_dir():
            state = "is a file" if folder.is_file() else "does not exist"
            raise CheckpointError(
                f"{folder} {state}, expected a checkpoint folder",
                hint=f"give the folder that holds {CONFIG_NAME} and {SINGLE_NAME}",
            )
        if not (folder / CONFIG_NAME).is_file():
            raise CheckpointError(f"{folder} holds no {CONFIG_NAME}", hint=_CONTENTS_HINT)
        config = read_object(folder / CONFIG_NAME)
        index: dict[str, str] = {}
        if (folder / INDEX_NAME).is_file():
            index = _read_index(folder / INDEX_NAME)
            names = sorted(set(index.values()))
        elif (folder / SINGLE_NAME).is_file():
            names = [SINGLE_NAME]
        else:
            raise CheckpointError(f"{folder} has no {SINGLE_NAME} and no {INDEX_NAME}", hint=_CONTENTS_HINT)
        shards: list[SafetensorsFile] = []
        try:
            for name in names:
                if not (folder / name).is_file():
                    raise MissingShardError(
                        f"{folder / INDEX_NAME} names {name!r}, which does not exist",
                        hint="the checkpoint is incomplete: download or copy it again",
                    )
                shards.append(SafetensorsFile(folder / name))
            _check_promises(index, shards, folder)
            return cls(folder, config, tuple(shards))
        except BaseException:
            _close(shards)
            raise

    @property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files."""
        return tuple(s.path for s in self.shards)

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(s.nbytes for s in self.shards)

    @property
    def metadata(self) -> dict[str, str]:
        """``__metadata__`` of all files; where they differ, the first file's."""
        merged: dict[str, str] = {}
        for shard in reversed(self.shards):
            merged.update(shard.metadata)
        return merged

    def read_ahead(self) -> None:
        """Begin to read what is not in the page cache, in the background and without waiting.

        For whoever is about to compute with all of the weights; what memory cannot hold is left alone.
        """
        free = available_memory()
        if free is None or self.nbytes <= free:
            self._read_ahead = ReadAhead([shard.mapped for shard in self.shards])

    def preload(self, progress: PreloadProgress | None = None) -> None:
        """Read all files into the page cache, and return when they are there.

        Raises:
            UsageError: memory cannot hold them; they would only push each other out.
            CheckpointError: a file cannot be read.
        """
        free = available_memory()
        if free is not None and self.nbytes > free:
            raise UsageError(
                f"{self.folder}: preloading takes {self.nbytes / 1e9:.2f} GB of memory, "
                f"{free / 1e9:.2f} GB are available",
                hint="without preloading it runs as well, reading parts of the file again and again",
            )
        preload([shard.mapped for shard in self.shards], progress)

    def release(self, prefix: str) -> None:
        """Give the pages of all tensors whose names begin with ``prefix`` back to the system."""
        for shard in self.shards:
            for entry in shard.header.entries:
                if entry.name.startswith(prefix):
                    shard.release(entry.begin, entry.end)

    def close(self) -> None:
        """Close all files, see :meth:`SafetensorsFile.close`."""
        if self._read_ahead is not None:
            self._read_ahead.stop()
        self.tensors = MappingProxyType({})
        _close(self.shards)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_CONTENTS_HINT = "cg reads safetensors checkpoints; fetch one with: cg download codegemma-2b"


def _close(shards: Iterable[SafetensorsFile]) -> None:
    for shard in shards:
        shard.close()


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name to file name.

    The files may be symbolic links (the Hub's cache is made of them), but the index may not name paths.
    """
    weight_map = read_object(path, InvalidIndexError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidIndexError(f"{path}: weight_map is not a JSON object with entries")
    for tensor, file in weight_map.items():
        if not isinstance(file, str):
            raise InvalidIndexError(f"{path}: the file of {tensor[:200]!r} is not a string")
        if file in (".", "..") or any(c in file for c in "/\\:"):
            raise IndexPathError(
                f"{path}: {file[:200]!r} leads out of the folder, only file names are allowed"
            )
        if not file.isprintable() or not file.endswith(".safetensors"):
            raise InvalidIndexError(f"{path}: {file[:200]!r} is not the name of a safetensors file")
    return weight_map


def _check_promises(index: Mapping[str, str], shards: Iterable[SafetensorsFile], folder: Path) -> None:
    by_name = {s.path.name: s for s in shards}
    for tensor, file in index.items():
        if tensor not in by_name[file].stored:
            raise MissingTensorError(f"{folder / INDEX_NAME}: {tensor[:200]!r} is not in {file!r}")


def _union(shards: Iterable[SafetensorsFile]) -> dict[str, Tensor]:
    union: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in shard.stored.items():
            if name in union:
                raise DuplicateNameError(f"{shard.path}: tensor {name!r} is in another shard already")
            union[name] = tensor
    return union
