"""Quantize layer by layer, each on what the quantized layers before it make of the calibration text.

Matrices that read the same input make a group. The rows of tokens run through a layer up to a group's input,
whose products are added up; the group is rounded and takes the place of the original; then the rows run up to
the next group. One layer's weights and one group's products are in use at a time; hidden states and whatever
is done lie in files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.quant.layer_files import LayerFiles
from cg.quant.layer_inputs import CaughtInputsError, InputCatcher
from cg.quant.layer_work import LayerWork, WorkProgress
from cg.quant.passage_store import PassageStore
from cg.quant.plan import PlannedTensor
from cg.quant.rounding.fit import Fitter, Levels
from cg.quant.rounding.method import Calibrated, Round, empty_products, rounder
from cg.quant.schemes.pack import pack
from cg.runtime.dtypes import DType
from cg.runtime.errors import NonFiniteError
from cg.runtime.formats.jlama import SCALES_SUFFIX
from cg.runtime.models.gemma import Gemma
from cg.runtime.tensor import Floats, Tensor

__all__ = ["LayerwiseQuantizer"]

_GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)  # matrices that read the same input, in the order in which a layer needs them

_SLAB_ELEMENTS = 16 << 20  # of a weight rounded at a time: 64 MB as floats


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
    """Rounds the matrices of a model's layers and its head. A context manager, which ends its threads."""

    def __init__(
        self,
        model: Gemma,
        planned: Mapping[str, PlannedTensor],
        rows: NDArray[np.int32],
        method: Calibrated,
        files: LayerFiles,
        *,
        half: bool,
        release: Callable[[str], None],
        progress: WorkProgress | None = None,
    ) -> None:
        """``planned`` by name; ``rows`` of tokens ``[n, context]``; ``release`` drops a tensor's pages.

        The model's operations and layers are replaced on the way. ``half``: only scales that f16 holds.
        """
        self._model, self._rows, self._method = model, rows, method
        self._files, self._release = files, release
        self._catcher = model.ops = InputCatcher(model.ops)
        self._work = LayerWork(rows.size, progress)
        self._fitters = {
            dtype: Fitter(Levels.of(dtype), half=half, threads=model.ops.threads)
            for dtype in (DType.Q4, DType.I8)
        }
        self._groups = list(self._plan(planned))
        for group in self._groups:
            self._work.plan(group.reach + group.cost)
        layer = [planned[f"model.layers.0.{part}.weight"].source.size for parts in _GROUPS for part in parts]
        self._layer_cost = self._work.pass_cost(sum(layer))
        self._work.plan(self._layer_cost * len(model.layers))

    def run(self) -> dict[str, Tensor]:
        """All rounded tensors by name, mapped; what an earlier run had done is taken over.

        Raises:
            NonFiniteError: NaN or infinity in a weight, or in what the model computes.
            OSError: a file cannot be written.
        """
        done: dict[str, Tensor] = {}
        layers = len(self._model.layers)
        known = max((i for i in range(layers + 1) if self._files.has_hidden(i)), default=-1)
        if known < 0:
            self._keep_hidden(0, (self._model.embed(row) for row in self._rows))
        for layer in range(layers + 1):
            for group in (g for g in self._groups if g.layer == layer):
                done.update(self._quantize(group))
            if layer < layers:
                if layer >= known:
                    self._work.add(f"layer {layer + 1} of {layers}: outputs", 0)
                    self._keep_hidden(layer + 1, self._outputs(layer))
                self._work.add("", self._layer_cost)
        return done

    def _quantize(self, group: _Group) -> Mapping[str, Tensor]:
        """Round a group and put it in the originals' place."""
        specs = [p.target for p in group.planned]
        tensors = self._files.group(group.label, specs)
        if tensors is None:
            self._work.add(f"{group.label}: inputs", 0)
            round_rows = self._calibrate(group)
            self._work.add(f"{group.label}: rounding", group.reach)
            with self._files.new_group(group.label, specs) as writer:
                for planned in group.planned:
                    fit = self._fitters[planned.target.dtype]
                    for start, integers, scales in _slabs(planned.source, round_rows(fit)):
                        row_bytes = planned.source.cols * planned.target.dtype.bits // 8
                        writer.write(
                            planned.source.name, start * row_bytes, pack(integers, planned.target.dtype)
                        )
                        writer.write(planned.source.name + SCALES_SUFFIX, 4 * start * scales.shape[1], scales)
                    self._release(planned.source.name)
            tensors = self._files.group(group.label, specs)
            assert tensors is not None  # it was just written
            self._work.add("", group.cost)
        else:
            self._work.add("", group.reach + group.cost)
        if group.layer < len(self._model.layers):
            parts: dict[str, Any] = {name.split(".")[-2]: tensor for name, tensor in tensors.items()}
            self._model.layers[group.layer] = replace(self._model.layers[group.layer], **parts)
        return tensors

    def _calibrate(self, group: _Group) -> Callable[[Fitter], Round]:
        """Measure what a group reads, and decide how to round it."""
        first = group.planned[0].source
        products = empty_products(self._method, first.cols)
        self._catcher.watch(first.name, products)
        hidden = self._files.hidden(group.layer)
        for x in hidden:
            with suppress(CaughtInputsError):
                if group.layer < len(self._model.layers):
                    self._model.layer(group.layer, x, PassageStore(), 0)
                else:
                    self._model.logits(x)
        self._catcher.watch("", products)
        if not np.isfinite(products).all():
            raise NonFiniteError(
                f"NaN or infinity in the inputs of {first.name}", hint="is the model damaged?"
            )
        products /= self._rows.size
        return rounder(products)

    def _outputs(self, layer: int) -> Iterator[Floats]:
        for x in self._files.hidden(layer):
            yield self._model.layer(layer, x, PassageStore(), 0)

    def _keep_hidden(self, layer: int, states: Iterator[Floats]) -> None:
        shape = (*self._rows.shape, self._model.config.hidden_size)
        with self._files.new_hidden(layer, shape) as kept:
            for row, state in enumerate(states):
                kept[row] = state

    def _plan(self, planned: Mapping[str, PlannedTensor]) -> Iterator[_Group]:
        layers = len(self._model.layers)
        for layer in range(layers):
            before = 0
            for parts in _GROUPS:
                names = [f"model.layers.{layer}.{part}.weight" for part in parts]
                yield from self._group(
                    f"layer {layer + 1} of {layers}, {parts[0]}", layer, names, planned, before
                )
                before += sum(planned[name].source.size for name in names)
        yield from self._group("output head", layers, [self._model.lm_head.name], planned, 0)

    def _group(
        self, label: str, layer: int, names: Sequence[str], planned: Mapping[str, PlannedTensor], before: int
    ) -> Iterator[_Group]:
        chosen = tuple(planned[name] for name in names if planned[name].is_quantized)
        if chosen:
            rows, cols = sum(p.source.rows for p in chosen), chosen[0].source.cols
            cost = self._work.group_cost(rows, cols, gptq=self._method == "gptq")
            yield _Group(label, layer, chosen, self._work.pass_cost(before), cost)

    def __enter__(self) -> LayerwiseQuantizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fitter in self._fitters.values():
            fitter.close()


def _slabs(source: Tensor, round_rows: Round) -> Iterator[tuple[int, NDArray[np.int8], Floats]]:
    """Rounded rows of a matrix, a slab at a time: the first row, integers and scales."""
    step = max(1, _SLAB_ELEMENTS // source.cols)
    for start in range(0, source.rows, step):
        weight = source.dequantize(start, min(start + step, source.rows))
        if not np.isfinite(weight).all():
            raise NonFiniteError(
                f"{source.name}: NaN or infinity in rows {start} to {start + len(weight) - 1}"
            )
        yield start, *round_rows(weight)
