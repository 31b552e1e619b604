"""What ``cg export`` and ``cg import`` say: a progress bar, what was written, what was rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cg.cli import output
from cg.cli.output import format_size

if TYPE_CHECKING:
    from rich.progress import Progress

    from cg.quant.export import ExportResult

__all__ = ["run"]

_MB = 1_000_000


def run(convert: Callable[..., ExportResult], what: str, *, json: bool) -> ExportResult:
    """Call ``convert`` with a progress bar's callback as ``progress``, and print what it did.

    ``what`` are the numbers that may have been rounded ("scales").
    """
    with output.progress() as bars:
        result = convert(progress=_bar(bars))
    _tell(result, what, json=json)
    return result


def _bar(bars: Progress) -> Callable[[str, int, int], None]:
    """One bar in megabytes of the source, with the tensor's name."""
    task = bars.add_task("reading (MB)", total=None, speed="")

    def show(tensor: str, done: int, total: int) -> None:
        speed = bars.tasks[0].speed
        bars.update(
            task,
            description=f"{tensor} (MB)",
            completed=done // _MB,
            total=total // _MB,
            speed=f"{speed:.0f} MB/s" if speed else "",
        )

    return show


def _tell(result: ExportResult, what: str, *, json: bool) -> None:
    for message in result.notes:
        output.note(f"note: {message}")
    if json:
        output.emit_json(result.to_json())
        return
    output.emit(", ".join(f"{count} tensors {kind}" for kind, count in sorted(result.types.items())))
    output.emit(_rounding(result, what))
    output.emit(f"{result.output}  {format_size(result.bytes)} ({result.seconds:.1f} s)")


def _rounding(result: ExportResult, what: str) -> str:
    rounding = result.rounding
    if rounding.exact:
        return f"nothing was lost: all {what} are exact" if rounding.numbers else "nothing was lost"
    vanished = f", {rounding.vanished:,} of them to 0" if rounding.vanished else ""
    return (
        f"{rounding.changed:,} of {rounding.numbers:,} {what} in {len(result.rounded)} tensors were rounded"
        f"{vanished}, by a factor of 1 ± {rounding.largest_relative_change:.2g} at most"
    )
