"""Quantize layer by layer, each on what the quantized layers before it make of the calibration text.

Matrices that read the same input make a group. The rows of tokens run through a layer up to a group's input,
which is measured; the group is rounded and takes the place of the original; then the rows run up to the next
group. One layer's weights and one group's products are in use at a time; hidden states and whatever is done
lie in files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np

from cg.quant.groups import layer_groups
from cg.quant.layer_files import LayerFiles
from cg.quant.layer_inputs import LayerInputs
from cg.quant.layer_work import LayerWork
from cg.quant.plan import PlannedTensor
from cg.quant.rounding.drift import Drift
from cg.quant.rounding.fit import Fitter, Levels
from cg.quant.rounding.method import Calibrated, Rounder, new_rounder
from cg.quant.rounding.workers import Workers
from cg.quant.schemes.pack import pack
from cg.runtime.dtypes import DType
from cg.runtime.errors import NonFiniteError, OutputError
from cg.runtime.formats.jlama import SCALES_SUFFIX
from cg.runtime.formats.writer import SafetensorsWriter
from cg.runtime.tensor import Tensor

__all__ = ["LayerwiseQuantizer"]

_DAMPING = 0.01  # as in GPTQ
_EMBEDDING_DAMPING = 0.3  # its rows are the first layer's inputs too, where every column's error costs alike

_SLAB_ELEMENTS = 8 << 20  # of a weight that a thread rounds at a time: 32 MB as floats, several times


@dataclass(frozen=True, slots=True)
class _Group:
    """Matrices to round that read the same input."""

    label: str
    layer: int
    """The number of layers, for the output head."""
    planned: tuple[PlannedTensor, ...]
    reach: float
    """Cost of running the tokens up to the group's input."""
    cost: float
    """Of the rest."""


class LayerwiseQuantizer:
    """Rounds the matrices of a model's layers and its head."""

    def __init__(
        self,
        original: LayerInputs,
        quantized: LayerInputs,
        planned: Mapping[str, PlannedTensor],
        method: Calibrated,
        files: LayerFiles,
        work: LayerWork,
        *,
        half: bool,
        workers: Workers,
        release: Callable[[str], None],
    ) -> None:
        """``planned`` by name; ``half``: only scales that f16 holds; ``release`` drops a tensor's pages.

        Both models start from the original checkpoint; the layers of ``quantized`` are replaced on the way.
        """
        self._original, self._quantized = original, quantized
        self._model = quantized.model
        self._method, self._files, self._work = method, files, work
        self._workers, self._release = workers, release
        self._drifts = method == "gptq"
        self._fitters = {dtype: Fitter(Levels.of(dtype), half=half) for dtype in (DType.Q4, DType.I8)}
        self._groups = list(self._plan(planned))
        layers = len(self._model.layers)
        names = [name for _, group in layer_groups(0, layers) for name in group if ".mlp." in name]
        mlp = sum(planned[name].source.size for name in names)
        self._layer_cost = work.pass_cost(mlp, both=self._drifts)
        work.plan(self._layer_cost * layers)
        for group in self._groups:
            work.plan(group.reach + group.cost)

    def run(self) -> dict[str, Tensor]:
        """All rounded tensors by name, mapped; what an earlier run had done is taken over.

        Raises:
            NonFiniteError: NaN or infinity in a weight, or in what the model computes.
            OutputError, OSError: a file cannot be written, or one of an earlier run is damaged.
        """
        done: dict[str, Tensor] = {}
        sides = (self._quantized, self._original) if self._drifts else (self._quantized,)
        layers = len(self._model.layers)
        for side in sides:
            side.begin()
        for layer in range(layers + 1):
            for group in (g for g in self._groups if g.layer == layer):
                done.update(self._quantize(group))
            if layer < layers:
                self._work.begin(f"layer {layer + 1} of {layers}: outputs")
                for side in sides:
                    side.advance(layer)
                self._release(f"model.layers.{layer}.")
                self._work.add(self._layer_cost)
        return done

    def _quantize(self, group: _Group) -> Mapping[str, Tensor]:
        """Round a group and put it in the originals' place."""
        specs = [p.target for p in group.planned]
        tensors = self._files.group(group.label, specs)
        self._work.begin(f"{group.label}: inputs")
        if tensors is None:
            if self._quantized.is_past(group.layer, group.planned[0].source.name):
                raise OutputError(f"{self._files.folder} is damaged", hint="remove it and run again")
            rounder, drift = self._measure(group)
            self._work.add(group.reach)
            self._work.begin(f"{group.label}: rounding")
            with self._files.new_group(group.label, specs) as writer:
                for planned in group.planned:
                    self._round(planned, rounder, drift, writer)
            tensors = self._files.group(group.label, specs)
            assert tensors is not None  # it was just written
        else:
            self._work.add(group.reach)
        self._work.add(group.cost)
        if group.layer < len(self._model.layers):
            parts: dict[str, Any] = {name.split(".")[-2]: tensor for name, tensor in tensors.items()}
            self._model.layers[group.layer] = replace(self._model.layers[group.layer], **parts)
        return tensors

    def _measure(self, group: _Group) -> tuple[Rounder, Drift | None]:
        """What a group's matrices read, and how that has drifted.

        The head's drift is left alone: it is the embedding as well.
        """
        first = group.planned[0].source
        head = group.layer == len(self._model.layers)
        tied = head and self._model.lm_head is self._model.embed_tokens
        rounder = new_rounder(self._method, first.cols, _EMBEDDING_DAMPING if tied else _DAMPING)
        drift = None
        inputs = self._quantized.of(group.layer, first.name)
        if not self._drifts or head:
            for x in inputs:
                rounder.measure(x, self._workers)
        else:
            drift = Drift([p.source for p in group.planned], self._original.ops, self._workers)
            for x, wanted in zip(inputs, self._original.of(group.layer, first.name), strict=True):
                rounder.measure(x, self._workers)
                drift.add(wanted, x)
        rounder.prepare(self._workers)
        return rounder, drift

    def _round(
        self, planned: PlannedTensor, rounder: Rounder, drift: Drift | None, writer: SafetensorsWriter
    ) -> None:
        """Round a matrix and write it: every thread has a slab of rows at a time."""
        source, dtype = planned.source, planned.target.dtype
        step = max(1, _SLAB_ELEMENTS // source.cols)
        writing = Lock()

        def round_slab(start: int) -> None:
            weight = source.dequantize(start, min(start + step, source.rows))
            if not np.isfinite(weight).all():
                stop = start + len(weight)
                raise NonFiniteError(f"{source.name}: NaN or infinity in rows {start} to {stop - 1}")
            part = None if drift is None else drift.of(source.name, start, weight)
            integers, scales = rounder.round(weight, part, self._fitters[dtype])
            with writing:
                writer.write(source.name, start * source.cols * dtype.bits // 8, pack(integers, dtype))
                writer.write(source.name + SCALES_SUFFIX, start * scales.shape[1] * scales.itemsize, scales)

        self._workers.each(round_slab, range(0, source.rows, step))

    def _plan(self, planned: Mapping[str, PlannedTensor]) -> Iterator[_Group]:
        layers = len(self._model.layers)
        for layer in range(layers):
            before = 0
            for label, names in layer_groups(layer, layers):
                yield from self._group(label, layer, names, planned, before)
                size = sum(planned[name].source.size for name in names)
                before = size if ".mlp." in names[0] else before + size  # from the middle on
        yield from self._group("output head", layers, [self._model.lm_head.name], planned, 0)

    def _group(
        self, label: str, layer: int, names: Sequence[str], planned: Mapping[str, PlannedTensor], before: int
    ) -> Iterator[_Group]:
        chosen = tuple(planned[name] for name in names if planned[name].is_quantized)
        if chosen:
            rows, cols = sum(p.source.rows for p in chosen), chosen[0].source.cols
            drift = self._drifts and layer < len(self._model.layers)
            cost = self._work.group_cost(rows, cols, gptq=self._drifts, drift=drift)
            yield _Group(label, layer, chosen, self._work.pass_cost(before, both=drift), cost)
