"""``cg optimize``: smaller scales beside a quantized model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cg.cli import output
from cg.cli.options import JsonOption, OverwriteOption
from cg.cli.output import format_size
from cg.runtime.errors import UsageError
from cg.runtime.hub import registry

if TYPE_CHECKING:
    from rich.progress import Progress

    from cg.quant import OptimizeResult

__all__ = ["optimize"]


def optimize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder, alias, Hub id or local name; see cg models.")
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Delete what was written for this model.")] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Make a Q4 model generate faster: 4.5 instead of 5 bits per weight to read, the same results to the bit.

    It helps where memory is what generating waits for; cg bench tells by how much.

    Writes the scales in f16, where that loses nothing, to a side file in cg's own folder, a tenth of the
    model's size. Every command uses it from then on; the model itself stays as it is. Quantizing the model
    anew makes the side file useless: run this again then.

    \b
    Examples:
      cg optimize codegemma-2b-q4
      cg optimize ./codegemma-2b-JQ4 --overwrite --json
      cg optimize codegemma-2b-q4 --remove
    """
    if remove and overwrite:
        raise UsageError("--remove and --overwrite exclude each other")
    folder = registry.resolve(model)

    from cg.quant import optimize as run
    from cg.quant import remove_scales

    if remove:
        file = remove_scales(folder)
        if json:
            output.emit_json({"folder": str(folder), "removed": None if file is None else str(file)})
        else:
            output.note("there was nothing to remove" if file is None else f"removed {file}")
        return
    with output.progress() as bars:
        result = run(folder, overwrite=overwrite, progress=_bar(bars))
    if json:
        output.emit_json(_as_json(result))
    else:
        _print(result)


def _bar(bars: Progress) -> Callable[[str, int, int], None]:
    task = bars.add_task("reading", total=None, speed="")

    def show(tensor: str, done: int, total: int) -> None:
        bars.update(task, description=tensor, completed=done, total=total)

    return show


def _print(result: OptimizeResult) -> None:
    if not result.written:
        output.emit("already optimized; --overwrite does it again")
    output.emit(
        f"f16 scales for {result.converted} of {result.converted + len(result.left)} Q4 tensors: "
        f"{result.bits_per_weight_before:.2f} -> {result.bits_per_weight:.2f} bits per weight"
    )
    for tensor in result.left:
        output.emit(f"left as it is: {tensor.name}: {tensor.reason}")
    output.emit(f"{result.file}  {format_size(result.bytes)} ({result.seconds:.1f} s)")


def _as_json(result: OptimizeResult) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(result) | {"folder": str(result.folder), "file": str(result.file)}
