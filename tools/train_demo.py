"""Train the bundled demo model on the standard library with the fill-in-the-middle objective.

    train_demo.py RUN --tokenizer tokenizer.model --init model.safetensors --steps 3000

RUN gets `checkpoint.pt` every few minutes and the published files at the end. Run the same command again to
go on after an interruption: the result is that of an uninterrupted run. `--steps` may grow until the decay
has begun.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import sentencepiece
import torch
from demo_corpus import Batch, Sampler, read_corpus
from demo_model import DemoConfig, DemoGemma, load_weights, publish
from torch import Tensor
from torch.nn import functional

MUON_LR, ADAM_LR, MOMENTUM = 0.02, 4e-3, 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning-rate factor by step: short warm-up, constant, linear to zero over the last `decay` steps."""

    steps: int
    decay: int
    peak: float
    warmup: int = 50

    def at(self, step: int) -> float:
        """The factor for the update after `step` steps."""
        return self.peak * min(1.0, (step + 1) / self.warmup, (self.steps - step) / self.decay)


class Optimizer:
    """Muon for the matrices of the layers, Adam for the embedding and the norms."""

    def __init__(self, model: DemoGemma) -> None:
        shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
        rest = []
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed_tokens" not in name:
                shapes.setdefault(parameter.shape, []).append(parameter)
            else:
                rest.append(parameter)
        self.groups = list(shapes.values())
        self.momentum = [torch.zeros(len(g), *g[0].shape) for g in self.groups]
        self.adam = torch.optim.Adam(rest, lr=ADAM_LR, betas=(0.9, 0.95), eps=1e-10)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update the parameters and drop their gradients; `factor` scales both learning rates."""
        for group, momentum in zip(self.groups, self.momentum, strict=True):
            gradient = torch.stack([_gradient(p) for p in group])
            momentum.mul_(MOMENTUM).add_(gradient)
            update = orthogonalize(gradient.add(momentum, alpha=MOMENTUM))
            rows, columns = group[0].shape
            rate = MUON_LR * factor * math.sqrt(max(1, rows / columns))
            for parameter, direction in zip(group, update, strict=True):
                parameter.mul_(1 - 0.01 * MUON_LR * factor).add_(direction, alpha=-rate)
                parameter.grad = None
        for adam_group in self.adam.param_groups:
            adam_group["lr"] = ADAM_LR * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and counters, for a checkpoint."""
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.momentum = state["momentum"]
        self.adam.load_state_dict(state["adam"])


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def orthogonalize(gradients: Tensor) -> Tensor:
    """Roughly the nearest semi-orthogonal matrices of [n, rows, columns].

    Five Newton-Schulz steps in bf16, coefficients from Muon (kellerjordan.github.io/posts/muon, 2024).
    """
    a, b, c = NEWTON_SCHULZ
    x = (gradients / (gradients.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result


def weighted_loss(model: DemoGemma, ids: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of weighted nats, and the nats per position [rows × length]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(model(ids))
    nats = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (nats * weights.flatten()).sum(), nats.detach()


Loss = Callable[[DemoGemma, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(slots=True)
class Progress:
    """What a checkpoint holds besides the tensors; losses are running means in nats per token."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    middle: float = math.nan
    plain: float = math.nan


def train_step(model: DemoGemma, loss: Loss, batches: list[Batch], progress: Progress) -> None:
    """Accumulate the gradient of one step; its total weight is normalised over all batches."""
    total = float(sum(b.weights.sum() for b in batches))
    sums = torch.zeros(2, 2)
    for batch in batches:
        weights = torch.from_numpy(batch.weights)
        value, nats = loss(
            model, torch.from_numpy(batch.ids), torch.from_numpy(batch.targets), weights / total
        )
        value.backward()  # type: ignore[no-untyped-call]
        for i, chosen in enumerate((weights.flatten() > 1, weights.flatten() == 1)):
            sums[i] += torch.tensor([nats[chosen].sum(), chosen.sum()])
        progress.tokens += int((weights > 0).sum())
    middle, plain = (sums[:, 0] / sums[:, 1].clamp(min=1)).tolist()
    progress.middle = _running(progress.middle, middle)
    progress.plain = _running(progress.plain, plain)
    progress.step += 1


def _running(mean: float, value: float) -> float:
    return value if math.isnan(mean) else 0.98 * mean + 0.02 * value


def save_checkpoint(file: Path, model: DemoGemma, optimizer: Optimizer, progress: Progress) -> None:
    """Everything that a restart needs, by rename; the data stream needs only the step."""
    temporary = file.with_suffix(".tmp")
    state = {name: getattr(progress, name) for name in Progress.__slots__}
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": state}, temporary
    )
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(file)


def load_checkpoint(file: Path, model: DemoGemma, optimizer: Optimizer) -> Progress:
    """Restore a run and return where it stood."""
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run; resumed if it holds checkpoint.pt")
    parser.add_argument("--tokenizer", type=Path, required=True, help="sentencepiece model")
    parser.add_argument("--init", type=Path, help="safetensors weights to start from")
    parser.add_argument("--steps", type=int, required=True, help="optimizer steps in all")
    parser.add_argument("--decay", type=int, default=1000, help="steps of decay at the end (default 1000)")
    parser.add_argument("--peak", type=float, default=0.5, help="factor on the learning rates (default 0.5)")
    parser.add_argument("--batches", type=int, default=2, help="batches per step (default 2)")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens per batch (default 4096)")
    parser.add_argument(
        "--middle-weight", type=float, default=20.0, help="loss weight of middles (default 20)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=180, help="seconds between saves (default 180)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss; needs a C++ compiler")
    return parser.parse_args()


class StopRequest:
    """True once the process was asked to end (SIGTERM, SIGINT): the step is finished and saved first."""

    def __init__(self) -> None:
        self._seen = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen = True

    def __bool__(self) -> bool:
        return self._seen


def main() -> None:
    """Train, or go on."""
    a = parse_arguments()
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)
    a.run.mkdir(parents=True, exist_ok=True)
    modules, held_out = read_corpus()
    size = sum(len(m.text) for m in modules) / 1e6
    print(f"{len(modules)} modules, {size:.2f} MB; {len(held_out)} held out", flush=True)
    tokenizer = sentencepiece.SentencePieceProcessor(str(a.tokenizer))
    sampler = Sampler(modules, tokenizer, a.seed, a.middle_weight)
    model = DemoGemma(DemoConfig())
    if a.init:
        load_weights(model, a.init)
    optimizer, progress = Optimizer(model), Progress()
    checkpoint = a.run / "checkpoint.pt"
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, model, optimizer)
        print(f"resumed at step {progress.step}", flush=True)
    schedule = Schedule(a.steps, a.decay, a.peak)
    loss: Loss = torch.compile(weighted_loss, dynamic=False) if a.compile else weighted_loss
    before, began, saved, first = progress.seconds, time.monotonic(), time.monotonic(), progress.step
    stop = StopRequest()
    while progress.step < a.steps and not stop:
        factor = schedule.at(progress.step)
        train_step(model, loss, sampler.step(progress.step, a.batches, a.batch_tokens), progress)
        optimizer.step(factor)
        now = time.monotonic()
        progress.seconds = before + now - began
        if progress.step % 20 == 0:
            rate = (now - began) / (progress.step - first)
            p = progress
            print(
                f"{p.step} lr {factor:.3f} middle {p.middle:.3f} plain {p.plain:.3f} {p.tokens} tokens "
                f"{rate:.2f} s/step",
                flush=True,
            )
        if stop or now - saved > a.save_every or progress.step == a.steps:
            save_checkpoint(checkpoint, model, optimizer, progress)
            saved = now
    if progress.step == a.steps:
        publish(model, a.run)


if __name__ == "__main__":
    main()
