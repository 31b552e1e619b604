"""Mixed types under a size budget: 8 bits for the matrices that lose most for their size, 4 for the others.

What a group of matrices loses is measured: the divergence of the original model with nothing but that group
rounded to Q4. Small errors of different matrices add up, so those that lose most per weight get 8 bits for as
long as the budget lasts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg.quant.calibrated import Calibration
from cg.quant.groups import layer_groups
from cg.quant.layer_files import LayerFiles
from cg.quant.layer_work import LayerWork, WorkProgress
from cg.quant.passage_store import PassageStore
from cg.quant.plan import EMBEDDING, Plan, PlannedTensor, QuantizeOptions, spare_bytes, tensors_of, with_types
from cg.quant.report import GroupLoss
from cg.quant.schemes import encode
from cg.quant.statistics import score_tokens
from cg.runtime.dtypes import DType
from cg.runtime.errors import NonFiniteError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.models.gemma import Gemma
from cg.runtime.tensor import Floats, Tensor

__all__ = ["choose", "mix_types"]

_ROWS = 4  # of the calibration text, two of code and two of fill-in-the-middle samples
_CONTEXT = 256  # tokens of a row that are run
_EVERY = 4  # of their positions one in so many is scored: output heads are large
_EXTRA_BITS = DType.I8.bits - DType.Q4.bits


def choose(losses: Sequence[GroupLoss], spare: float) -> tuple[GroupLoss, ...]:
    """The same with I8 for those that lose most per weight; they take at most ``spare`` bytes more."""
    dtypes: dict[GroupLoss, DType] = {}
    for group in sorted(losses, key=lambda g: -g.kld / g.parameters):
        extra = group.parameters * _EXTRA_BITS / 8
        if extra <= spare:
            dtypes[group] = DType.I8
            spare -= extra
    return tuple(replace(group, dtype=dtypes.get(group, group.dtype)) for group in losses)


def mix_types(
    checkpoint: Checkpoint,
    plan: Plan,
    calibration: Calibration,
    options: QuantizeOptions,
    files: LayerFiles,
    progress: WorkProgress | None = None,
) -> tuple[Plan, tuple[GroupLoss, ...]]:
    """Measure all groups and give them types; what an earlier run had measured is taken over.

    Raises:
        UsageError: the budget has no room for any group.
        NonFiniteError: NaN or infinity in a weight, or in what the model computes.
    """
    assert options.bits is not None
    planned = {p.source.name: p for p in tensors_of(plan)}
    model = load_gemma(checkpoint, threads=options.threads, activations="f32")
    pinned = EMBEDDING if options.embed is not None else ()
    groups = [g for g in _groups(model, planned) if not any(part in g.names[0] for part in pinned)]
    spare = spare_bytes(list(planned.values()), options.bits)
    if min((g.parameters for g in groups), default=math.inf) * _EXTRA_BITS / 8 > spare:
        raise UsageError(
            f"{options.bits:g} bits per weight leave no room for 8 bits anywhere", hint="allow a few more"
        )
    klds = _measure(checkpoint, model, calibration.rows[:_ROWS, :_CONTEXT], groups, files, progress)
    chosen = choose([GroupLoss(g.names, g.parameters, klds[g.label]) for g in groups], spare)
    return with_types(plan, {name: g.dtype for g in chosen for name in g.tensors}), chosen


@dataclass(frozen=True, slots=True)
class _Group:
    """What is quantized of matrices that read the same."""

    label: str
    names: tuple[str, ...]
    parameters: int
    first: int
    """The layer where it begins to matter: -1 for the embedding, the number of layers for the head."""


def _groups(model: Gemma, planned: Mapping[str, PlannedTensor]) -> Iterator[_Group]:
    layers = len(model.layers)
    candidates = [(label, names, i) for i in range(layers) for label, names in layer_groups(i, layers)]
    candidates.append(("embedding", (model.embed_tokens.name,), -1))
    if model.lm_head is not model.embed_tokens:
        candidates.append(("output head", (model.lm_head.name,), layers))
    for label, names, first in candidates:
        quantized = tuple(name for name in names if planned[name].is_quantized)
        if quantized:
            yield _Group(label, quantized, sum(planned[name].source.size for name in quantized), first)


def _measure(
    checkpoint: Checkpoint,
    model: Gemma,
    rows: NDArray[np.int32],
    groups: Sequence[_Group],
    files: LayerFiles,
    progress: WorkProgress | None,
) -> Mapping[str, float]:
    """Divergences by label; each is on the disk as soon as it is known."""
    found = files.losses()
    missing = [group for group in groups if group.label not in found]
    if missing:
        layers = len(model.layers)
        work = LayerWork(rows.size, progress)
        costs = {group.label: 1 + layers - max(group.first, 0) for group in missing}  # in layers
        work.plan(1 + layers + sum(costs.values()))
        work.begin("the original")
        meter = _LossMeter(checkpoint, model, rows)
        work.add(1 + layers)
        for group in missing:
            work.begin(f"{group.label}: loss")
            found[group.label] = meter.loss(group)
            files.keep_losses(found)
            work.add(costs[group.label])
    return found


class _LossMeter:
    """The original model on a few rows of tokens, as it is and with some matrices rounded."""

    def __init__(self, checkpoint: Checkpoint, model: Gemma, rows: NDArray[np.int32]) -> None:
        self._checkpoint, self._model, self._rows = checkpoint, model, rows
        self._targets = rows[:, _EVERY::_EVERY].reshape(-1)
        self._states = [[model.embed(row) for row in rows]]
        """What every layer reads, and the last one's output, by row ``[context, hidden_size]``."""
        for layer in range(len(model.layers)):
            self._states.append(self._run(layer, self._states[-1]))
        self._expected = self._logits(self._states[-1])

    def loss(self, group: _Group) -> float:
        """The mean KL divergence with these matrices as Q4."""
        with self._rounded(group):
            first = group.first
            states = self._states[first] if first >= 0 else [self._model.embed(row) for row in self._rows]
            for layer in range(max(first, 0), len(self._model.layers)):
                states = self._run(layer, states)
            logits = self._logits(states)
        return float(score_tokens(self._expected, logits, self._targets).kld.mean())

    @contextmanager
    def _rounded(self, group: _Group) -> Iterator[None]:
        """Puts rounded matrices into the model for a while."""
        model, first = self._model, group.first
        embed, head, layers = model.embed_tokens, model.lm_head, list(model.layers)
        if first < 0:
            model.embed_tokens = _as_q4(embed)
            model.lm_head = model.embed_tokens if head is embed else head
        elif first == len(layers):
            model.lm_head = _as_q4(head)
        else:
            names = [name.split(".")[-2] for name in group.names]
            parts: dict[str, Any] = {name: _as_q4(getattr(layers[first], name)) for name in names}
            model.layers[first] = replace(layers[first], **parts)
        try:
            yield
        finally:
            model.embed_tokens, model.lm_head = embed, head
            model.layers[:] = layers

    def _run(self, layer: int, states: Sequence[Floats]) -> list[Floats]:
        after = [self._model.layer(layer, x, PassageStore(), 0) for x in states]
        self._checkpoint.release(f"model.layers.{layer}.")
        return after

    def _logits(self, states: Sequence[Floats]) -> Floats:
        """At the scored positions of all rows, ``[n, vocab_size]``."""
        scored = [x[_EVERY - 1 : -1 : _EVERY] for x in states]
        return self._model.logits(np.concatenate(scored))


def _as_q4(tensor: Tensor) -> Tensor:
    encoded = encode(tensor, DType.Q4)
    if not encoded.finite:
        raise NonFiniteError(f"tensor {tensor.name} has NaN or infinity in it", hint="it is damaged")
    return Tensor(tensor.name, DType.Q4, tensor.shape, encoded.data, encoded.scales)
