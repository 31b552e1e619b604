"""Loading a model: the progress bar of ``--preload``, and what the user should know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cg.cli import output
from cg.cli.options import ActivationsName, BackendName

if TYPE_CHECKING:
    from rich.progress import Progress

    from cg.runtime import Model

__all__ = ["load_model", "preload_bar"]

_MB = 1_000_000


def load_model(
    folder: Path,
    *,
    backend: BackendName,
    threads: int | None,
    activations: ActivationsName | None,
    context_length: int | None,
    preload: bool,
) -> Model:
    """:func:`cg.runtime.load`, with a bar while the weights are preloaded; its warning goes to stderr."""
    from cg.runtime import load

    def run(progress: Callable[[int, int], None] | None) -> Model:
        return load(
            folder,
            backend=backend,
            threads=threads,
            activations=activations,
            context_length=context_length,
            preload=preload,
            preload_progress=progress,
        )

    if preload:
        with output.progress() as bars:
            model = run(preload_bar(bars))
    else:
        model = run(None)  # without the import of what draws bars
    if model.warning is not None:
        output.warn(model.warning)
    return model


def preload_bar(bars: Progress) -> Callable[[int, int], None]:
    """A bar in megabytes with speed and time left, there from the first call to the last."""
    task = bars.add_task("preloading (MB)", total=None, speed="", visible=False)

    def show(done: int, total: int) -> None:
        speed = next((t.speed for t in bars.tasks if t.id == task), None)
        bars.update(
            task,
            completed=done // _MB,
            total=total // _MB,
            speed=f"{speed:.0f} MB/s" if speed else "",
            visible=done < total,
        )

    return show
