"""What ``cg export`` and ``cg import`` say: a progress bar, what was written, what was rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cg.cli import output
from cg.cli.output import format_size

if TYPE_CHECKING:
    from rich.progress import Progress

    from cg.quant.export import ExportResult, Rounding

__all__ = ["bar", "tell"]

_MB = 1_000_000
_SHOWN = 10


def bar(bars: Progress) -> Callable[[str, int, int], None]:
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


def tell(result: ExportResult, what: str, *, json: bool) -> None:
    """Print a result; ``what`` are the numbers that may have been rounded ("scales")."""
    for message in result.notes:
        output.note(f"note: {message}")
    if json:
        output.emit_json(result.to_json())
        return
    output.emit(", ".join(f"{count} tensors {kind}" for kind, count in sorted(result.types.items())))
    output.emit(_rounding(result.rounding, what))
    for name, rounding in list(result.rounded.items())[:_SHOWN]:
        output.emit(f"  {name}: {_rounding(rounding, what)}")
    if len(result.rounded) > _SHOWN:
        output.emit(f"  and {len(result.rounded) - _SHOWN} more tensors; --json lists all")
    output.emit(f"{result.output}  {format_size(result.bytes)} ({result.seconds:.1f} s)")


def _rounding(rounding: Rounding, what: str) -> str:
    if rounding.exact:
        return f"nothing was lost: all {what} are exact" if rounding.numbers else "nothing was lost"
    vanished = f", {rounding.vanished:,} of them to 0" if rounding.vanished else ""
    return (
        f"{rounding.changed:,} of {rounding.numbers:,} {what} were rounded{vanished}, "
        f"by a factor of 1 ± {rounding.largest_relative_change:.2g} at most"
    )
