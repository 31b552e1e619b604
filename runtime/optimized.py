"""Scales in f16 beside a quantized model: decoding then reads 4.5 instead of 5 bits per weight.

``cg optimize`` puts them into a side file in cg's own folder. It holds only scales that f16 represents
exactly, so results are the same to the bit. It is a cache: absent, of other weights, damaged or switched off,
the model runs as it lies.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from cg.runtime.dtypes import DType
from cg.runtime.errors import FormatError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.jlama import SCALES_SUFFIX, scales_shape
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.home import optimized_file
from cg.runtime.tensor import Tensor

__all__ = ["FORMAT", "FORMAT_KEY", "SHARDS_KEY", "SWITCH", "OptimizedScales", "identity", "open_scales"]

SWITCH = "CG_OPTIMIZED"
"""Environment variable; 0 ignores every side file."""
FORMAT_KEY, FORMAT = "cg.optimized", "1"
SHARDS_KEY = "cg.shards"

_AGAIN = "run cg optimize again"


@dataclass(frozen=True, slots=True, eq=False)
class OptimizedScales:
    """What was found beside a checkpoint."""

    state: Literal["none", "off", "fits", "stale", "damaged"]
    file: Path | None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """The checkpoint's tensors that have f16 scales, mapped; none unless the file fits."""
    warning: str | None = None
    """Why a file that is there is not used."""

    @property
    def nbytes(self) -> int:
        """Bytes of the f16 scales."""
        return sum(t.scales.nbytes for t in self.tensors.values() if t.scales is not None)

    def applied_to(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """All tensors of the checkpoint in their order, with f16 scales where there are some."""
        return MappingProxyType({**tensors, **self.tensors})


def open_scales(checkpoint: Checkpoint, *, ignore_switch: bool = False) -> OptimizedScales:
    """Map the side file of an open checkpoint if it has one that belongs to these weights; never fails.

    ``ignore_switch`` looks for it although :data:`SWITCH` is 0.
    """
    file = optimized_file(checkpoint.folder)
    if file is None:
        return OptimizedScales("none", None)
    if os.environ.get(SWITCH) == "0" and not ignore_switch:
        return OptimizedScales("off", file)
    try:
        file.stat()
        side = SafetensorsFile(file)
        if not _belongs(side.metadata, checkpoint):
            return _stale(checkpoint, file)
        tensors = _with_half_scales(side, checkpoint.tensors)
    except (FileNotFoundError, NotADirectoryError):
        return OptimizedScales("none", file)
    except (OSError, FormatError) as error:
        return OptimizedScales(
            "damaged",
            file,
            warning=f"the optimized scales of {checkpoint.folder} cannot be used: {error}; {_AGAIN}",
        )
    if not all(_same_ends(checkpoint.tensors[name], tensor) for name, tensor in tensors.items()):
        return _stale(checkpoint, file)
    return OptimizedScales("fits", file, tensors)


def identity(checkpoint: Checkpoint) -> str:
    """Which weights these are, as JSON: of every shard its name, size, time and the SHA-256 of its header.

    Raises:
        OSError: a shard is gone.
    """
    return json.dumps(
        [
            {
                "name": shard.path.name,
                "size": shard.nbytes,
                "mtime_ns": shard.path.stat().st_mtime_ns,
                "header": hashlib.sha256(shard.raw[: shard.header.data_start].data).hexdigest(),
            }
            for shard in checkpoint.shards
        ]
    )


def _belongs(metadata: Mapping[str, str], checkpoint: Checkpoint) -> bool:
    return metadata.get(FORMAT_KEY) == FORMAT and metadata.get(SHARDS_KEY) == identity(checkpoint)


def _stale(checkpoint: Checkpoint, file: Path) -> OptimizedScales:
    return OptimizedScales(
        "stale",
        file,
        warning=f"the optimized scales of {checkpoint.folder} belong to other weights; {_AGAIN}",
    )


def _with_half_scales(side: SafetensorsFile, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the side file has scales for, with those.

    Raises:
        FormatError: it holds something else.
    """
    found: dict[str, Tensor] = {}
    for name, scales in side.stored.items():
        owner = tensors.get(name.removesuffix(SCALES_SUFFIX))
        expected = None
        if owner is not None and owner.dtype is DType.Q4 and name.endswith(SCALES_SUFFIX):
            expected = scales_shape(owner.shape)
        if owner is None or scales.dtype is not DType.F16 or scales.shape != expected or not scales.size:
            raise FormatError(f"{side.path}: {name!r} does not hold f16 scales of a Q4 tensor")
        halves = scales.data.view("<f2").reshape(scales.shape)
        found[owner.name] = Tensor(owner.name, owner.dtype, owner.shape, owner.data, halves)
    return found


def _same_ends(plain: Tensor, optimized: Tensor) -> bool:
    """Whether the first and the last scale are the same to the bit: what a look at two pages can tell."""
    assert plain.scales is not None  # both have blocks
    assert optimized.scales is not None
    ends = [
        [scales[0, 0].astype(np.float32).tobytes(), scales[-1, -1].astype(np.float32).tobytes()]
        for scales in (plain.scales, optimized.scales)
    ]
    return ends[0] == ends[1]
