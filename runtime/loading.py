"""From a folder to the parts of a running model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cg.runtime.config import GemmaConfig
from cg.runtime.errors import TokenizerError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.preload import PreloadProgress
from cg.runtime.models.gemma import Gemma
from cg.runtime.ops import Activations, Backend, open_ops
from cg.runtime.optimized import OptimizedScales, open_scales
from cg.runtime.prompts.chat import ChatTemplate
from cg.runtime.tokenizer import Tokenizer

__all__ = ["LoadedModel", "load_gemma", "load_model"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A checkpoint's parts, ready to run."""

    folder: Path
    checkpoint: Checkpoint
    model: Gemma
    tokenizer: Tokenizer
    template: ChatTemplate
    warning: str | None = None
    """Why the model does not run as fast as it was prepared to."""


def load_gemma(
    checkpoint: Checkpoint,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    activations: Activations | None = None,
    scales: OptimizedScales | None = None,
) -> Gemma:
    """The model over an open checkpoint, without its tokenizer; nothing is copied but the norms.

    ``scales`` are used by the native backend; to the others smaller ones are no gain.
    """
    config = GemmaConfig.from_json(checkpoint.config)
    ops = open_ops(backend, threads=threads, activations=activations)
    tensors = checkpoint.tensors
    if scales is not None and ops.name == "native":
        tensors = scales.applied_to(tensors)
    return Gemma(config, tensors, ops)


def load_model(
    folder: Path,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    activations: Activations | None = None,
    preload: bool = False,
    preload_progress: PreloadProgress | None = None,
) -> LoadedModel:
    """Open a folder in Hugging Face layout, original or quantized, with its optimized scales if it has some.

    Raises:
        UsageError: preloading was asked for, and memory cannot hold the weights.
        FormatError: a file is malformed (see :mod:`cg.runtime.errors` for the causes).
        BackendError: the backend is not available here.
    """
    checkpoint = Checkpoint.open(folder)
    if preload:
        checkpoint.preload(preload_progress)
    else:
        checkpoint.read_ahead()
    scales = open_scales(checkpoint)
    model = load_gemma(checkpoint, backend=backend, threads=threads, activations=activations, scales=scales)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise TokenizerError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} entries, "
            f"the embedding only {model.config.vocab_size}",
            hint="do the tokenizer files belong to this model?",
        )
    template = ChatTemplate.load(folder, tokenizer)
    warning = scales.warning if model.ops.name == "native" else None
    return LoadedModel(folder, checkpoint, model, tokenizer, template, warning)
