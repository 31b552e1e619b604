"""Keys and values for a pass over whole passages, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.runtime.tensor import Floats

__all__ = ["PassageStore"]


class PassageStore:
    """Keys and values of one layer and one passage, in float32: all that a layer needs of a whole passage."""

    def store(
        self, layer: int, position: int, keys: Floats, values: Floats
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """As :meth:`cg.runtime.cache.LayerStore.store`; nothing is kept."""
        return np.ascontiguousarray(keys.transpose(1, 0, 2)), np.ascontiguousarray(values.transpose(1, 0, 2))
