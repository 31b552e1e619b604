"""Matrices that read the same input: what is measured, rounded and given a type together."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["LAYER_GROUPS", "layer_groups"]

LAYER_GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""In the order in which a layer needs them."""


def layer_groups(layer: int, layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What to call each group of one of ``layers`` layers, and the names of its tensors."""
    for parts in LAYER_GROUPS:
        names = tuple(f"model.layers.{layer}.{part}.weight" for part in parts)
        yield f"layer {layer + 1} of {layers}, {parts[0]}", names
