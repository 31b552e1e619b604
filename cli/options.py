"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cg.cli import output
from cg.runtime.errors import UsageError

__all__ = [
    "ActivationsName",
    "ActivationsOption",
    "BackendName",
    "BackendOption",
    "ContextLengthOption",
    "JsonOption",
    "MaxTokensOption",
    "MinPOption",
    "ModelOption",
    "OverwriteOption",
    "PenaltyOption",
    "PreloadOption",
    "SeedOption",
    "StopOption",
    "TemperatureOption",
    "ThreadsOption",
    "TopKOption",
    "TopPOption",
    "model_folder",
    "tell_fallback",
]

BackendName = Literal["auto", "native", "torch", "numpy"]
ActivationsName = Literal["int8", "f32"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
BackendOption = Annotated[
    BackendName, typer.Option("--backend", envvar="CG_BACKEND", help="What computes; see cg inspect.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", "-t", envvar="CG_THREADS", min=1, help="Threads; default: physical cores."),
]

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", envvar="CG_MODEL", help="Folder, alias, Hub id or local name; see cg models."
    ),
]
PreloadOption = Annotated[
    bool,
    typer.Option(
        "--preload/--no-preload", envvar="CG_PRELOAD", help="Read all weights into memory before the start."
    ),
]
MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", "-N", min=1, help="Tokens to generate at most.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", help="0 is greedy: always the likeliest token.")
]
TopKOption = Annotated[int, typer.Option("--top-k", help="Only the k likeliest tokens; 0 is off.")]
TopPOption = Annotated[
    float, typer.Option("--top-p", help="Only the likeliest tokens that reach this probability.")
]
MinPOption = Annotated[
    float, typer.Option("--min-p", help="Only tokens at least this likely beside the likeliest.")
]
PenaltyOption = Annotated[
    float,
    typer.Option("--repetition-penalty", help="1 is off; anything else harms code, which repeats itself."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Makes sampling reproducible.")]
StopOption = Annotated[list[str] | None, typer.Option("--stop", help="Stop before this text; repeatable.")]
ContextLengthOption = Annotated[
    int | None,
    typer.Option("--context-length", min=1, help="Tokens of prompt and answer; default: the model's."),
]
ActivationsOption = Annotated[
    ActivationsName | None,
    typer.Option(
        "--activations", help="How activations meet quantized weights; default int8 on native, else f32."
    ),
]


def model_folder(model: str | None) -> Path:
    """The folder of the model that an option, the environment or the settings file named.

    Raises:
        UsageError: none of them did.
        ModelNotFoundError: it is not on this machine.
    """
    from cg.runtime.hub import registry

    if model is None:
        raise UsageError(
            "no model was named",
            hint="use --model FOLDER|NAME, or set CG_MODEL; cg models lists what is here, "
            "--model demo is the small bundled one",
        )
    return registry.resolve(model)


def tell_fallback(backend: BackendName) -> None:
    """Say so when ``auto`` has to do without the compiled kernels, or without the fastest of them.

    Nobody should wonder why it is slow, or trust a processor that computes wrong results.
    """
    from cg.runtime.ops import available_backends

    best, *others = available_backends()
    if backend == "auto" and not best.available:
        taken = next(choice.name for choice in others if choice.available)
        output.note(f"note: {best.reason}; computing with {taken}, which is slow")
    if backend in ("auto", "native") and best.warning:
        output.warn(best.warning)
