"""``cg import``: a model in another program's format as a folder that cg runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from cg.cli import output
from cg.cli.export_text import run
from cg.cli.options import JsonOption, OverwriteOption

__all__ = ["app", "gguf", "import_"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def import_() -> None:
    """Make a model folder from another program's format: llama.cpp's GGUF.

    \b
    Examples:
      cg import gguf codegemma-2b-q4_0.gguf ./codegemma-2b-q4
    """


@app.command("gguf")
def gguf(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A GGUF file of a first-generation Gemma.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    dequantize: Annotated[
        Literal["bf16", "f16", "f32"] | None,
        typer.Option("--dequantize", help="Expand what cg has no kernels for (Q4_K, Q6_K ...) to floats."),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """A GGUF file as a folder: Q4_0 as Q4, Q8_0 as I8, F16, BF16 and F32 as they are.

    Blocks are the same to the bit. Blocks of other types are expanded with --dequantize, so that cg verify
    can score any file of llama.cpp. Needs the package gguf: pip install 'codegemma-cg[gguf]'.

    \b
    Examples:
      cg import gguf codegemma-2b-q4_0.gguf ./codegemma-2b-q4
      cg import gguf codegemma-2b-Q4_K_M.gguf ./codegemma-2b-q4_k --dequantize f32
      cg verify ./codegemma-2b-q4_k --against codegemma-2b
    """
    from cg.quant.export import import_gguf

    convert = partial(import_gguf, file, out, dequantize=dequantize, overwrite=overwrite)
    result = run(convert, "weights", json=json)
    output.note(f"next: cg complete -m {result.output}")
