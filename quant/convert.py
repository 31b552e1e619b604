"""Quantize a checkpoint: one folder in, one folder out, a few megabytes of memory in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cg.quant.calibrated import calibrate, rounding, work_bytes
from cg.quant.companions import companion_files, copy_companions, json_bytes, write_file
from cg.quant.encoders import encoder
from cg.quant.jlama_config import jlama_config
from cg.quant.model_card import front_matter, model_card
from cg.quant.plan import QuantizeOptions, make_plan
from cg.quant.provenance import NO_CHECKSUM, identify, metadata
from cg.quant.report import QuantizeResult, report_tensors, total
from cg.quant.schemes import native_problem
from cg.quant.staging import StagedFolder, check_apart, output_errors
from cg.quant.stream import stream, thread_count
from cg.runtime.formats.checkpoint import CONFIG_NAME, SINGLE_NAME, Checkpoint
from cg.runtime.formats.writer import SafetensorsWriter, file_size

__all__ = ["QuantizeProgress", "quantize"]

_SHARES = 1 << 20
_CARD_BYTES = 1 << 16  # more than any README.md that is written here, for the space check


@dataclass(frozen=True, slots=True)
class QuantizeProgress:
    """How far it is."""

    stage: Literal["rounding", "writing"]
    """A calibrated method rounds first, in steps of equal time; writing counts bytes of the source."""
    what: str
    """Which tensor, or which part of the model."""
    done: int
    total: int


def quantize(
    source: Path,
    out: Path,
    options: QuantizeOptions | None = None,
    progress: Callable[[QuantizeProgress], None] | None = None,
) -> QuantizeResult:
    """Quantize the checkpoint in ``source`` to a new folder ``out``.

    ``out`` appears complete or not at all, whatever interrupts the run. The weights go to a single
    ``model.safetensors`` whatever their size, as Jlama writes them; the same input gives the same bytes.

    Raises:
        UsageError: source and output overlap, or the request makes no sense for this source.
        FormatError: the source is malformed.
        NonFiniteError: a tensor to quantize has NaN or infinity in it.
        OutputExistsError, DiskFullError, OutputError: the output cannot be written.
    """
    options = options or QuantizeOptions()
    started = time.monotonic()
    check_apart(source, out)
    with Checkpoint.open(source) as checkpoint:
        plan = make_plan(checkpoint, options)
        planned = tuple(tensor for _, tensors in plan for tensor in tensors)
        specs = tuple(p.target for p in planned)
        companions = companion_files(source)
        config = (source / CONFIG_NAME).read_bytes()
        notes: list[str] = []
        if options.jlama_runnable:
            has_tokenizer = (source / "tokenizer.json").is_file()
            changed, notes = jlama_config(checkpoint.config, options, has_tokenizer=has_tokenizer)
            config = json_bytes(changed) if notes else config
        origin = identify(source)
        unknown = {path.name: NO_CHECKSUM for path in checkpoint.files}
        calibration = calibrate(checkpoint, options) if options.is_calibrated else None
        about = calibration.metadata() if calibration else {}
        strings = metadata(origin, options, unknown, about)
        needed = file_size(specs, strings) + len(config) + _CARD_BYTES
        needed += work_bytes(checkpoint, planned, calibration)
        needed += sum(file.stat().st_size for file in companions)
        with StagedFolder(out, overwrite=options.overwrite) as staged, output_errors(staged.target):
            staged.check_space(needed)
            report = _Reporter(progress, sum(p.source.nbytes for p in planned))
            with (
                rounding(
                    checkpoint,
                    planned,
                    calibration,
                    options,
                    staged.target,
                    staged.notes.append,
                    report.round,
                ) as rounded,
                SafetensorsWriter(staged.path / SINGLE_NAME, specs, strings) as writer,
            ):
                distortions, checksums = stream(
                    plan, writer, options, encoder(options, rounded), report.write
                )
                writer.finish(metadata(origin, options, checksums, about))
            tensors = report_tensors(planned, distortions)
            totals = total(tensors)
            write_file(staged.path / CONFIG_NAME, config)
            copy_companions(companions, staged.path)
            card = model_card(origin, options, totals, checksums, front_matter(source))
            write_file(staged.path / "README.md", card.encode())
            staged.commit()
        return QuantizeResult(
            staged.target,
            tensors,
            totals,
            writer.nbytes,
            checksums,
            time.monotonic() - started,
            "native" if native_problem() is None else "numpy",
            thread_count(options),
            (*staged.notes, *notes),
        )


class _Reporter:
    """Turns what :func:`rounding` and :func:`stream` report into progress."""

    def __init__(self, progress: Callable[[QuantizeProgress], None] | None, whole: int) -> None:
        self._progress, self._whole, self._done = progress, whole, 0

    def round(self, what: str, share: float) -> None:
        if self._progress is not None:
            self._progress(QuantizeProgress("rounding", what, round(share * _SHARES), _SHARES))

    def write(self, tensor: str, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(QuantizeProgress("writing", tensor, self._done, self._whole))
