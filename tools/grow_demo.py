"""Two changes of a trained demo model that make infilling easier to learn.

    grow_demo.py small.safetensors grown.safetensors --tokenizer tokenizer.model --layers 0 1 2 +2 3 +3

`--layers` lists the layers of the new model by number of the old one; `+n` is a copy of layer n whose
outputs are zero, so that at first it does nothing. `--bridge` seeds, in one head of the given layers, what
PSM needs: `<|fim_middle|>` looks at the `<|fim_suffix|>` that ends the prefix. It is a rank-one change of
q_proj and k_proj along the slowest rotary frequency; the directions come from training text.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from demo_corpus import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, ROW_LENGTHS, Sampler, read_corpus
from demo_model import Attention, DemoConfig, DemoGemma, Layer, replace_file
from safetensors.torch import load_file, save
from torch import Tensor

BRIDGE_LOGIT = 12.0
RIDGE = 1e-2
ROWS = 400


def grow(old: dict[str, Tensor], layers: list[str]) -> dict[str, Tensor]:
    """Tensors of a model with the given layers."""
    new = {name: tensor.float() for name, tensor in old.items() if ".layers." not in name}
    for position, source in enumerate(layers):
        prefix = f"model.layers.{int(source)}."
        for name, tensor in old.items():
            if name.startswith(prefix):
                silent = source.startswith("+") and name.endswith(("o_proj.weight", "down_proj.weight"))
                value = torch.zeros_like(tensor) if silent else tensor.clone()
                new[f"model.layers.{position}.{name.removeprefix(prefix)}"] = value.float()
    return new


@dataclass(frozen=True, slots=True)
class Rows:
    """PSM and SPM documents of one length, and where each has its two tokens: [rows, length] and [rows]."""

    ids: Tensor
    middle: Tensor
    suffix: Tensor
    psm: Tensor


def draw_rows(sampler: Sampler, count: int) -> Rows:
    """`count` documents that hold a hole."""
    rng, kept = np.random.default_rng(sampler.seed), list[Tensor]()
    while sum(map(len, kept)) < count:
        ids = torch.from_numpy(sampler.batch(rng, 64, ROW_LENGTHS[0]).ids)
        kept.append(ids[(ids == FIM_MIDDLE).any(1)])
    ids = torch.cat(kept)[:count]
    middle, suffix, prefix = ((ids == t).int().argmax(1) for t in (FIM_MIDDLE, FIM_SUFFIX, FIM_PREFIX))
    return Rows(ids, middle, suffix, prefix < suffix)


@torch.no_grad()
def seed_bridge(model: DemoGemma, rows: Rows, layers: list[int]) -> None:
    """Let the weakest head of each layer look from `<|fim_middle|>` to `<|fim_suffix|>`, in PSM."""
    c = model.config
    for number in layers:
        layer = model.model.layers[number]
        assert isinstance(layer, Layer)
        attention = layer.self_attn
        blocks = attention.o_proj.weight.view(c.hidden_size, c.num_attention_heads, c.head_dim)
        head = int(blocks.norm(dim=(0, 2)).argmin())
        states = attention_input(model, attention, rows.ids)
        near = (rows.ids == FIM_SUFFIX) | (rows.ids == FIM_MIDDLE)
        is_query, is_key = torch.zeros_like(near), torch.zeros_like(near)
        number_of_row = torch.arange(len(rows.ids))
        is_query[number_of_row[rows.psm], rows.middle[rows.psm]] = True
        is_key[number_of_row[rows.psm], rows.suffix[rows.psm]] = True
        slow = c.head_dim // 2 - 1
        scale = (BRIDGE_LOGIT * c.head_dim**0.5) ** 0.5
        attention.q_proj.weight[head * c.head_dim + slow] += scale * detector(states, is_query, near)
        attention.k_proj.weight[slow] += scale * detector(states, is_key, near)


def attention_input(model: DemoGemma, attention: Attention, ids: Tensor) -> Tensor:
    """What `attention` reads at every position: [rows, length, hidden]."""
    seen: list[Tensor] = []

    def keep(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0])

    hook = attention.register_forward_pre_hook(keep)
    for chunk in torch.split(ids, 64):
        model(chunk)
    hook.remove()
    return torch.cat(seen)


def detector(states: Tensor, positive: Tensor, near: Tensor) -> Tensor:
    """The direction w with w · state near 1 where `positive` and near 0 elsewhere.

    Half of the weight is with the positives, a quarter with the other `near` ones, easily confused with them.
    """
    far, near = ~(positive | near), near & ~positive
    weight = 0.5 * positive / positive.sum() + 0.25 * near / near.sum() + 0.25 * far / far.sum()
    x, w = states.flatten(0, 1), weight.flatten()
    moment = (x * w[:, None]).T @ x
    moment += RIDGE * moment.diagonal().mean() * torch.eye(len(moment))
    direction: Tensor = torch.linalg.solve(moment, (x * (w * positive.flatten())[:, None]).sum(0))
    return direction


def main() -> None:
    """Read, grow, seed, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="safetensors weights of the trained model")
    parser.add_argument("target", type=Path, help="safetensors weights to write, in f32")
    parser.add_argument("--tokenizer", type=Path, required=True, help="sentencepiece model")
    parser.add_argument("--layers", nargs="+", required=True, metavar="N", help="old layer, or +N for a copy")
    parser.add_argument("--bridge", nargs="*", type=int, default=[], metavar="N", help="new layers to seed")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    model = DemoGemma(DemoConfig(num_hidden_layers=len(a.layers)))
    model.load_state_dict(grow(load_file(a.source), a.layers))
    if a.bridge:
        tokenizer = sentencepiece.SentencePieceProcessor(str(a.tokenizer))
        sampler = Sampler(read_corpus()[0], tokenizer, a.seed, 1.0)
        seed_bridge(model, draw_rows(sampler, ROWS), a.bridge)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    replace_file(a.target, save(tensors, metadata={"format": "pt"}))


if __name__ == "__main__":
    main()
