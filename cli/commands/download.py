"""``cg download``: a model from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from cg.cli import output
from cg.cli.options import JsonOption
from cg.cli.output import format_size
from cg.runtime.hub import registry

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cg.runtime.hub.download import DownloadProgress

__all__ = ["download"]

_MB = 1_000_000


def download(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="An alias (codegemma-2b ...) or a Hub id, ORG/NAME[@REVISION]."),
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit; default: main.")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="Access token; default: HF_TOKEN, then the login's.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Download a model, or go on with a download that was interrupted.

    Only the files that cg needs are fetched, into the Hugging Face cache; the folder's path goes to
    standard output. Google's models are gated: accept the licence on the model's page first, and log in
    with `hf auth login` or set HF_TOKEN.

    \b
    Examples:
      cg download codegemma-2b
      cg download tjake/codegemma-2b-JQ4
      cg download google/codegemma-7b-it --revision main --json
    """
    from cg.runtime.hub.download import download as fetch

    with output.progress() as bars:
        folder = fetch(model, revision=revision, token=token, progress=_bars(bars))
    found = next((m for m in registry.list_models() if m.path == folder), None)
    if json:
        output.emit_json(
            {
                "name": model if found is None else found.name,
                "type": None if found is None else found.type,
                "revision": folder.name if folder.parent.name == "snapshots" else None,
                "size_bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
                "path": str(folder),
            }
        )
    else:
        output.emit(str(folder))
    if found is not None:
        output.note(f"{found.name} is here: {found.type}, {format_size(found.size)}")
        verb = "complete -m" if found.kind == "quantized" else "quantize"
        output.note(f"next: cg {verb} {found.name}")


def _bars(bars: Progress) -> Callable[[DownloadProgress], None]:
    """One bar per large file, in megabytes."""
    tasks: dict[str, TaskID] = {}

    def show(state: DownloadProgress) -> None:
        done = state.file_done / _MB
        if (
            state.file not in tasks
        ):  # begins where an earlier download stopped: that part says nothing of speed
            label, total = f"{state.file} (MB)", state.file_size / _MB
            tasks[state.file] = bars.add_task(label, total=total, completed=int(done), speed="")
        bars.update(tasks[state.file], completed=done)
        speed = next((t.speed for t in bars.tasks if t.id == tasks[state.file]), None)
        if speed:
            bars.update(tasks[state.file], speed=f"{speed:.1f} MB/s")

    return show
