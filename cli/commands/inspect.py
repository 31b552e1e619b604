"""``cg inspect``: what a checkpoint holds, and what this machine computes with."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cg.cli import output
from cg.cli.options import JsonOption
from cg.runtime.hub import registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cg.runtime.tensor import Tensor

__all__ = ["inspect"]


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="A folder, a .safetensors file, an alias, a Hub id or a name."),
    ] = None,
    all_tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: JsonOption = False,
) -> None:
    """Show a model's configuration, tensors, bits per weight and origin, and the active backend.

    Without PATH only what concerns this machine: backends, and why each can or cannot be used.

    \b
    Examples:
      cg inspect
      cg inspect demo
      cg inspect codegemma-2b-q4 --tensors
      cg inspect ./some/model.safetensors --json
    """
    from cg.cli import inspect_report as report

    with ExitStack() as stack:
        described: dict[str, Any] | None = None
        tensors: Mapping[str, Tensor] = {}
        if model is not None and Path(model).expanduser().is_file():
            from cg.runtime.formats.safetensors import SafetensorsFile

            file = stack.enter_context(SafetensorsFile(Path(model).expanduser()))
            tensors = file.tensors
            described = report.describe(tensors, file.metadata, [file.path], None)
        elif model is not None:
            from cg.runtime.formats.checkpoint import Checkpoint
            from cg.runtime.optimized import open_scales

            checkpoint = stack.enter_context(Checkpoint.open(registry.resolve(model)))
            tensors = checkpoint.tensors
            described = report.describe(tensors, checkpoint.metadata, checkpoint.files, checkpoint.config)
            described["optimized"] = report.optimized(open_scales(checkpoint))
        rows = report.tensor_rows(tensors.values()) if all_tensors else []
    machine = report.machine()
    if json:
        output.emit_json(report.as_json(described, rows if all_tensors else None, machine))
        return
    if described is not None:
        output.emit("\n".join(report.model_lines(described)))
        output.table("", report.DTYPE_COLUMNS, report.dtype_rows(described))
        if all_tensors:
            output.table("", report.TENSOR_COLUMNS, [report.tensor_cells(row) for row in rows])
    output.emit("\n".join(report.machine_lines(machine)))
