"""``cg export``: a model in another program's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cg.cli import output
from cg.cli.export_text import bar, tell
from cg.cli.options import JsonOption, OverwriteOption
from cg.runtime.hub import registry

__all__ = ["app", "export", "gguf"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder, alias, Hub id or local name; see cg models.")
]


@app.callback()
def export() -> None:
    """Write a model in another program's format: llama.cpp, transformers, vLLM.

    \b
    Examples:
      cg export gguf codegemma-2b-q4 codegemma-2b-q4_0.gguf
    """


@app.command("gguf")
def gguf(
    model: _ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file, NAME.gguf.")],
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """One GGUF file for llama.cpp and Ollama: Q4 as Q4_0, I8 as Q8_0, floats as they are.

    Integers stay the same to the bit, and so do scales that f16 holds; others are rounded, and the
    largest change is told. Tokenizer, fill-in-the-middle tokens and chat template go along. Needs the
    package gguf: pip install 'codegemma-cg[gguf]'.

    \b
    Examples:
      cg export gguf codegemma-2b-q4 codegemma-2b-q4_0.gguf
      cg export gguf codegemma-2b codegemma-2b-bf16.gguf
      cg export gguf demo-q4 demo.gguf --overwrite --json
    """
    folder = registry.resolve(model)

    from cg.quant.export import export_gguf

    with output.progress() as bars:
        result = export_gguf(folder, out, overwrite=overwrite, progress=bar(bars))
    tell(result, "scales", json=json)
