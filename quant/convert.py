"""Quantize a checkpoint: one folder in, one folder out, a few megabytes of memory in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cg.quant.calibrated import Calibration, calibrate, round_layers, work_bytes, work_files
from cg.quant.companions import companion_files, copy_companions, json_bytes, write_file
from cg.quant.encoders import encoder
from cg.quant.jlama_config import jlama_config
from cg.quant.layer_files import LayerFiles
from cg.quant.mixed_types import mix_types
from cg.quant.model_card import front_matter, model_card
from cg.quant.plan import Plan, QuantizeOptions, make_plan, spare_bytes, tensors_of
from cg.quant.provenance import NO_CHECKSUM, identify, metadata
from cg.quant.report import GroupLoss, QuantizeResult, TensorReport, Totals, report_tensors, total
from cg.quant.schemes import native_problem
from cg.quant.staging import StagedFolder, check_apart, output_errors
from cg.quant.stream import stream, thread_count
from cg.runtime.formats.checkpoint import CONFIG_NAME, SINGLE_NAME, Checkpoint
from cg.runtime.formats.writer import SafetensorsWriter, file_size
from cg.runtime.tensor import Tensor

__all__ = ["QuantizeProgress", "quantize"]

_SHARES = 1 << 20
_CARD_BYTES = 1 << 16  # more than any README.md that is written here, for the space check


@dataclass(frozen=True, slots=True)
class QuantizeProgress:
    """How far it is."""

    stage: Literal["measuring", "rounding", "writing"]
    """First losses are measured for a budget of bits, then a calibrated method rounds, both in steps of equal
    time; writing counts bytes of the source."""
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
        companions = companion_files(source)
        config = (source / CONFIG_NAME).read_bytes()
        notes: list[str] = []
        if options.jlama_runnable:
            has_tokenizer = (source / "tokenizer.json").is_file()
            changed, notes = jlama_config(checkpoint.config, options, has_tokenizer=has_tokenizer)
            config = json_bytes(changed) if notes else config
        origin = identify(source)
        calibration = calibrate(checkpoint, options) if options.is_calibrated else None
        with (
            StagedFolder(out, overwrite=options.overwrite) as staged,
            output_errors(staged.target),
            work_files(checkpoint, calibration, options, staged.target, staged.notes.append) as files,
        ):
            needed = _model_bytes(checkpoint, plan, calibration, options) + len(config) + _CARD_BYTES
            needed += sum(file.stat().st_size for file in companions)
            staged.check_space(needed - (files.nbytes if files else 0))
            report = _Reporter(progress)
            written = _write_model(checkpoint, plan, calibration, options, staged.path, files, report)
            write_file(staged.path / CONFIG_NAME, config)
            copy_companions(companions, staged.path)
            card = model_card(origin, options, written.totals, written.checksums, front_matter(source))
            write_file(staged.path / "README.md", card.encode())
            staged.commit()
        return QuantizeResult(
            staged.target,
            written.tensors,
            written.totals,
            written.file_bytes,
            written.checksums,
            time.monotonic() - started,
            "native" if native_problem() is None else "numpy",
            thread_count(options),
            (*staged.notes, *notes),
            written.losses,
        )


@dataclass(frozen=True, slots=True)
class _Written:
    """What is known of a new ``model.safetensors``."""

    tensors: tuple[TensorReport, ...]
    totals: Totals
    checksums: dict[str, str]
    """Of the source's files."""
    file_bytes: int
    losses: tuple[GroupLoss, ...]


def _model_bytes(
    checkpoint: Checkpoint, plan: Plan, calibration: Calibration | None, options: QuantizeOptions
) -> int:
    """What :func:`_write_model` takes on the disk, the work on the way included."""
    planned = tensors_of(plan)
    size = file_size([p.target for p in planned], _metadata(checkpoint, calibration, options))
    if options.bits is not None:
        size += math.ceil(spare_bytes(planned, options.bits))
    return size + work_bytes(checkpoint, planned, calibration, options)


def _write_model(
    checkpoint: Checkpoint,
    plan: Plan,
    calibration: Calibration | None,
    options: QuantizeOptions,
    folder: Path,
    files: LayerFiles | None,
    report: _Reporter,
) -> _Written:
    """Choose types, round, and write ``model.safetensors``."""
    losses: tuple[GroupLoss, ...] = ()
    rounded: Mapping[str, Tensor] = {}
    if calibration is not None and files is not None:
        if options.bits is not None:
            plan, losses = mix_types(checkpoint, plan, calibration, options, files, report.measure)
        rounded = round_layers(checkpoint, tensors_of(plan), calibration, options, files, report.round)
    planned = tensors_of(plan)
    specs = [p.target for p in planned]
    report.whole = sum(p.source.nbytes for p in planned)
    strings = _metadata(checkpoint, calibration, options)
    with SafetensorsWriter(folder / SINGLE_NAME, specs, strings) as writer:
        distortions, checksums = stream(plan, writer, options, encoder(options, rounded), report.write)
        writer.finish(_metadata(checkpoint, calibration, options, checksums))
    tensors = report_tensors(planned, distortions)
    return _Written(tensors, total(tensors), checksums, writer.nbytes, losses)


def _metadata(
    checkpoint: Checkpoint,
    calibration: Calibration | None,
    options: QuantizeOptions,
    checksums: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The header's strings; as long without the checksums."""
    checksums = checksums or {path.name: NO_CHECKSUM for path in checkpoint.files}
    about = calibration.metadata() if calibration else {}
    return metadata(identify(checkpoint.folder), options, checksums, about)


class _Reporter:
    """Turns what the parts report into progress."""

    def __init__(self, progress: Callable[[QuantizeProgress], None] | None) -> None:
        self._progress, self._done = progress, 0
        self.whole = 0
        """Bytes of the source."""

    def measure(self, what: str, share: float) -> None:
        self._show("measuring", what, share)

    def round(self, what: str, share: float) -> None:
        self._show("rounding", what, share)

    def write(self, tensor: str, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(QuantizeProgress("writing", tensor, self._done, self.whole))

    def _show(self, stage: Literal["measuring", "rounding"], what: str, share: float) -> None:
        if self._progress is not None:
            self._progress(QuantizeProgress(stage, what, round(share * _SHARES), _SHARES))
