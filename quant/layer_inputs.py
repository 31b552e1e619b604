"""The calibration rows on their way through a model, layer after layer, and what its matrices read there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.quant.layer_files import LayerFiles
from cg.quant.passage_store import PassageStore
from cg.runtime.decoder_layer import DecoderLayer
from cg.runtime.errors import NonFiniteError
from cg.runtime.models.gemma import Gemma
from cg.runtime.ops import Ids, Ops
from cg.runtime.ops_reference import rms_norm
from cg.runtime.tensor import Floats, Tensor

__all__ = ["LayerInputs"]


class LayerInputs:
    """Rows of tokens in one model. Hidden states lie in files; each half of a layer starts from them."""

    def __init__(self, name: str, model: Gemma, rows: NDArray[np.int32], files: LayerFiles) -> None:
        """``name`` tells the files of several models apart. The model's operations are replaced."""
        self.model = model
        self.ops = model.ops
        self._catcher = model.ops = _InputCatcher(model.ops)
        self._name, self._rows, self._files = name, rows, files

    def begin(self) -> None:
        """Embed the rows, unless an earlier run came past that."""
        if self._place() is None:
            self._keep(0, (self.model.embed(row) for row in self._rows))

    def is_past(self, layer: int, matrix: str) -> bool:
        """Whether what ``matrix`` reads cannot be computed any more: only later hidden states are kept."""
        place = self._place()
        return place is not None and place > _place_before(layer, matrix)

    def advance(self, layer: int) -> None:
        """Compute what the layer after ``layer`` reads, unless an earlier run did."""
        self._advance_to(2 * (layer + 1))

    def of(self, layer: int, matrix: str) -> Iterator[Floats]:
        """What a matrix reads, row by row ``[context, cols]``; the layer is run no further than there.

        ``layer`` is the number of layers for the output head.

        Raises:
            NonFiniteError: the model computes NaN or infinity.
        """
        place = _place_before(layer, matrix)
        self._advance_to(place)
        for x in self._files.hidden(self._name, place):
            self._catcher.watched = matrix
            try:
                self._step(place, x)
            except _CaughtInputError as caught:
                if not np.isfinite(caught.x).all():
                    raise NonFiniteError(
                        f"NaN or infinity in the inputs of {matrix}", hint="is the checkpoint damaged?"
                    ) from None
                yield caught.x
            finally:
                self._catcher.watched = ""

    def _place(self) -> int | None:
        """How far the kept hidden states are; None before the beginning."""
        places = range(2 * len(self.model.layers), -1, -1)
        return next((place for place in places if self._files.has_hidden(self._name, place)), None)

    def _advance_to(self, place: int) -> None:
        at = self._place()
        assert at is not None  # it has begun
        for here in range(at, place):
            states = self._files.hidden(self._name, here)
            self._keep(here + 1, (self._step(here, x) for x in states))

    def _step(self, place: int, x: Floats) -> Floats:
        """What comes after a place: half a layer, or after the last one the output head."""
        layer, in_the_middle = divmod(place, 2)
        if layer == len(self.model.layers):
            return self.model.logits(x)
        if in_the_middle:
            return self.model.feed_forward(layer, x)
        return self.model.attend(layer, x, PassageStore(), 0)

    def _keep(self, place: int, states: Iterator[Floats]) -> None:
        shape = (*self._rows.shape, self.model.config.hidden_size)
        self._files.keep_hidden(self._name, place, shape, states)


def _place_before(layer: int, matrix: str) -> int:
    """Places are counted in half layers: before the attention of a layer 2 n, before its MLP 2 n + 1."""
    return 2 * layer + (".mlp." in matrix)


class _CaughtInputError(Exception):
    """Ends a forward pass with the input that it was run for."""

    def __init__(self, x: Floats) -> None:
        super().__init__()
        self.x = x


class _InputCatcher:
    """Operations that pass everything on to a backend, up to the first call with the watched matrix."""

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self.name, self.isa = ops.name, ops.isa
        self.threads, self.activations = ops.threads, ops.activations
        self.watched = ""

    def embed(self, table: Tensor, ids: Ids, scale: float) -> Floats:
        return self._ops.embed(table, ids, scale)

    def matmul(self, x: Floats, weight: Tensor, residual: Floats | None = None) -> Floats:
        if self._is_watched((weight,)):
            raise _CaughtInputError(x)
        return self._ops.matmul(x, weight, residual)

    def norm_matmul(self, x: Floats, norm: Floats, eps: float, weights: Sequence[Tensor]) -> list[Floats]:
        if self._is_watched(weights):
            raise _CaughtInputError(rms_norm(x, norm, eps))
        return self._ops.norm_matmul(x, norm, eps, weights)

    def norm_geglu(self, x: Floats, norm: Floats, eps: float, gate: Tensor, up: Tensor) -> Floats:
        if self._is_watched((gate, up)):
            raise _CaughtInputError(rms_norm(x, norm, eps))
        return self._ops.norm_geglu(x, norm, eps, gate, up)

    def rope(self, x: Floats, position: int, theta: float) -> None:
        self._ops.rope(x, position, theta)

    def attention(
        self, q: Floats, keys: NDArray[Any], values: NDArray[Any], position: int, scale: float
    ) -> Floats:
        return self._ops.attention(q, keys, values, position, scale)

    def fuse(self, layers: Sequence[DecoderLayer], *, head_dim: int, eps: float, theta: float) -> None:
        return None  # inputs are caught between the operations

    def _is_watched(self, weights: Sequence[Tensor]) -> bool:
        return any(weight.name == self.watched for weight in weights)
