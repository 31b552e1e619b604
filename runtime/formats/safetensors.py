"""Safetensors files, memory-mapped: tensors are views of the file, nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType

import numpy as np

from cg.runtime.formats.header import Header, read_header
from cg.runtime.formats.jlama import fold_scales
from cg.runtime.formats.mapping import map_file, release_pages
from cg.runtime.formats.preload import MappedFile
from cg.runtime.tensor import Bytes, Tensor

__all__ = ["SafetensorsFile", "read_header"]


class SafetensorsFile:
    """One mapped safetensors file, checked when it is opened.

    The file must not be shortened or changed while it is open: cg itself only ever replaces whole files.
    No file handle stays open; the mapping lives until :meth:`close`, or, if tensors are still in use then,
    until the last of them is gone.

    Raises:
        FormatError: the file is malformed, one subclass per cause.
        CheckpointError: the file is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = map_file(path)
        try:
            with memoryview(self._map) as view:
                self.header: Header = read_header(view, str(path))
        except BaseException:
            self.close()
            raise
        self._whole: Bytes = np.frombuffer(self._map, dtype=np.uint8)

    @property
    def metadata(self) -> dict[str, str]:
        """The strings under ``__metadata__``."""
        return self.header.metadata

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self._whole.nbytes

    @cached_property
    def stored(self) -> Mapping[str, Tensor]:
        """The tensors as stored, in the order of their data, ``.qb`` tensors on their own."""
        entries = self.header.entries
        return MappingProxyType(
            {e.name: Tensor(e.name, e.dtype, e.shape, self._whole[e.begin : e.end]) for e in entries}
        )

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors in the order of their data, quantized ones with their scales attached.

        Raises:
            MissingScalesError, ScalesShapeError, OrphanScalesError: see :func:`fold_scales`.
        """
        return MappingProxyType(fold_scales(self.stored, str(self.path)))

    @property
    def raw(self) -> Bytes:
        """The whole file as bytes, header included."""
        return self._whole

    @property
    def mapped(self) -> MappedFile:
        """What preloading needs."""
        return MappedFile(self.path, self._map, self._whole)

    def release(self, start: int, stop: int) -> None:
        """Tell the system that bytes ``start:stop`` of the file are not needed soon.

        A hint only, see :func:`release_pages`.
        """
        release_pages(self._map, start, stop)

    def close(self) -> None:
        """Forget the mapping; tensors that are still in use stay valid."""
        for name in ("stored", "tensors"):
            self.__dict__.pop(name, None)
        self.__dict__.pop("_whole", None)
        with suppress(BufferError):  # views are alive; the last one frees the mapping
            self._map.close()

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
