"""The options of ``cg bench`` that are lists of numbers, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from cg.runtime.errors import UsageError

__all__ = ["BatchOption", "DepthOption", "GenerateOption", "PromptOption", "SweepOption", "numbers", "sizes"]

PromptOption = Annotated[
    list[str] | None,
    typer.Option("--n-prompt", "-p", help="Prompt sizes, e.g. 128,512; 0 for none. Default: 512."),
]
GenerateOption = Annotated[
    list[str] | None,
    typer.Option("--n-gen", "-n", help="Tokens to generate, e.g. 32,128; 0 for none. Default: 128."),
]
BatchOption = Annotated[
    list[str] | None,
    typer.Option("--batch", "-b", help="Tokens of one pass with all logits, e.g. 2,4,8. Default: none."),
]
DepthOption = Annotated[
    list[str] | None,
    typer.Option("--depth", "-d", help="Tokens in the cache before a test, e.g. 0,4096. Default: 0."),
]
SweepOption = Annotated[
    list[str] | None,
    typer.Option("--threads", "-t", envvar="CG_THREADS", help="Threads, e.g. 1,2. Default: physical cores."),
]


def numbers(values: Sequence[str] | None, default: str, option: str) -> tuple[int, ...]:
    """``["128,512", "32"]`` as numbers.

    Raises:
        UsageError: something else stands between the commas.
    """
    listed = ",".join(values or [default])
    try:
        return tuple(int(number) for number in listed.split(",")) if listed else ()
    except ValueError:
        raise UsageError(f"{option} {listed}: expected numbers, separated by commas") from None


def sizes(values: Sequence[str] | None, default: str, option: str) -> tuple[int, ...]:
    """Numbers without zeros, which switch a kind of test off."""
    return tuple(size for size in numbers(values, default, option) if size)
