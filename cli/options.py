"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

__all__ = ["BackendName", "BackendOption", "JsonOption", "OverwriteOption", "ThreadsOption"]

BackendName = Literal["auto", "native", "torch", "numpy"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
BackendOption = Annotated[
    BackendName, typer.Option("--backend", envvar="CG_BACKEND", help="What computes; see cg inspect.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", "-t", envvar="CG_THREADS", min=1, help="Threads; default: physical cores."),
]
