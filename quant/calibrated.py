"""Quantizing with the model's activations at hand: what it is calibrated on, and the work so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cg import __version__
from cg.quant.calibration import CalibrationText, calibration_rows, read_calibration
from cg.quant.layer_files import LayerFiles
from cg.quant.layer_inputs import LayerInputs
from cg.quant.layer_work import LayerWork, WorkProgress
from cg.quant.layerwise import LayerwiseQuantizer
from cg.quant.overlap import SKETCH_KEY, sketch
from cg.quant.plan import PlannedTensor, QuantizeOptions
from cg.quant.rounding.workers import Workers
from cg.runtime.config import GemmaConfig
from cg.runtime.errors import TokenizerError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.optimized import identity
from cg.runtime.tensor import Tensor
from cg.runtime.tokenizer import Tokenizer

__all__ = ["Calibration", "calibrate", "round_layers", "work_bytes", "work_files"]

_CONTEXT = 512  # tokens per row: as many as a completion usually reads
_SEED = 0
_GENERATION = 3  # raised when the same options no longer give the same blocks


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What a model is calibrated on."""

    text: CalibrationText
    rows: NDArray[np.int32]
    """Token ids ``[n, context]``."""

    def metadata(self) -> dict[str, str]:
        """Strings for a file's header; by the sketch verifying on the same text can be refused."""
        return {
            "cg.calibration": self.text.title,
            "cg.calibration_sha256": self.text.sha256,
            "cg.calibration_tokens": str(self.rows.size),
            SKETCH_KEY: sketch(self.text.text),
        }


def calibrate(checkpoint: Checkpoint, options: QuantizeOptions) -> Calibration:
    """Read the calibration text and cut it into rows for the model's tokenizer and context.

    Raises:
        UsageError: a file cannot be read, or the text is too short.
        CheckpointError: this is not a model that cg can run.
        TokenizerError: there is no tokenizer, or one of another model.
    """
    config = GemmaConfig.from_json(checkpoint.config)
    tokenizer = Tokenizer.load(checkpoint.folder)
    text = read_calibration(options.calibrate)
    context = min(_CONTEXT, config.max_position_embeddings)
    rows = calibration_rows(text, tokenizer, context, options.calibration_tokens, _SEED)
    if rows.max() >= config.vocab_size:
        raise TokenizerError(
            f"{checkpoint.folder}: the text has token {rows.max()}, the model only a vocabulary of "
            f"{config.vocab_size}",
            hint="do the tokenizer files belong to this model?",
        )
    return Calibration(text, rows)


def work_bytes(
    checkpoint: Checkpoint,
    planned: Sequence[PlannedTensor],
    calibration: Calibration | None,
    options: QuantizeOptions,
) -> int:
    """What :func:`round_layers` needs on the disk besides the result: hidden states and all blocks."""
    if calibration is None or options.method == "absmax":
        return 0
    states = 4 * 4 * calibration.rows.size * GemmaConfig.from_json(checkpoint.config).hidden_size
    return states + sum(p.target.data_bytes + p.target.scale_bytes for p in planned if p.is_quantized)


@contextmanager
def work_files(
    checkpoint: Checkpoint,
    calibration: Calibration | None,
    options: QuantizeOptions,
    target: Path,
    notes: Callable[[str], None],
) -> Iterator[LayerFiles | None]:
    """Where the work lies until the block ends well: a run with the same options goes on there."""
    if calibration is None:
        yield None
        return
    files = LayerFiles(target, _identity(checkpoint, calibration, options))
    if files.resumed:
        notes("going on where an earlier run with the same options stopped")
    try:
        yield files
    finally:
        files.close()
    files.remove()


def round_layers(
    checkpoint: Checkpoint,
    planned: Sequence[PlannedTensor],
    calibration: Calibration,
    options: QuantizeOptions,
    files: LayerFiles,
    progress: WorkProgress | None = None,
) -> Mapping[str, Tensor]:
    """Round what is calibrated: the tensors by name, mapped, as long as ``files`` are open.

    Raises:
        NonFiniteError: NaN or infinity in a weight, or in what the model computes.
    """
    if options.method == "absmax":
        return {}
    original = load_gemma(checkpoint, threads=options.threads, activations="f32")
    quantized = load_gemma(checkpoint, threads=options.threads)
    with Workers(quantized.ops.threads) as workers:
        return LayerwiseQuantizer(
            LayerInputs("original", original, calibration.rows, files),
            LayerInputs("quantized", quantized, calibration.rows, files),
            {p.source.name: p for p in planned},
            options.method,
            files,
            LayerWork(calibration.rows.size, progress),
            half=options.scales == "f16",
            workers=workers,
            release=checkpoint.release,
        ).run()


def _identity(checkpoint: Checkpoint, calibration: Calibration, options: QuantizeOptions) -> dict[str, Any]:
    """Everything that the blocks depend on."""
    return {
        "version": [__version__, _GENERATION],
        "source": json.loads(identity(checkpoint)),
        "rows": calibration.metadata(),
        "options": [
            options.method,
            options.type,
            options.scales,
            options.embed,
            options.patterns,
            options.bits,
        ],
    }
