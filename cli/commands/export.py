"""``cg export``: a model in another program's format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from cg.cli.export_text import run
from cg.cli.options import JsonOption, OverwriteOption
from cg.runtime.hub import registry

__all__ = ["app", "compressed_tensors", "export", "gguf", "safetensors"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_GB = 1_000_000_000

_ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder, alias, Hub id or local name; see cg models.")
]
_FolderArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")]
_ShardOption = Annotated[
    float, typer.Option("--shard-size", min=0.001, help="Largest file, in GB; a tensor is never cut.")
]


@app.callback()
def export() -> None:
    """Write a model in another program's format: llama.cpp, transformers, vLLM.

    \b
    Examples:
      cg export gguf codegemma-2b-q4 codegemma-2b-q4_0.gguf
      cg export safetensors codegemma-2b-q4 ./codegemma-2b-q4-bf16
      cg export compressed-tensors codegemma-2b-q4 ./codegemma-2b-w4a16
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

    run(partial(export_gguf, folder, out, overwrite=overwrite), "scales", json=json)


@app.command("safetensors")
def safetensors(
    model: _ModelArgument,
    out: _FolderArgument,
    dtype: Annotated[
        Literal["bf16", "f16", "f32"], typer.Option("--dtype", help="f32 loses nothing, f16 often.")
    ] = "bf16",
    shard_size: _ShardOption = 5.0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """A folder with floats only, which transformers loads.

    What rounding to the type changed is told. The folder appears complete or not at all.

    \b
    Examples:
      cg export safetensors codegemma-2b-q4 ./codegemma-2b-q4-bf16
      cg export safetensors codegemma-2b-q4 ./codegemma-2b-q4-f32 --dtype f32 --shard-size 2
      cg export safetensors demo-q4 ./demo-f16 --dtype f16 --overwrite --json
    """
    folder = registry.resolve(model)

    from cg.quant.export import export_safetensors

    convert = partial(export_safetensors, folder, out, dtype=dtype, shard_bytes=int(shard_size * _GB))
    run(partial(convert, overwrite=overwrite), "weights", json=json)


@app.command("compressed-tensors")
def compressed_tensors(
    model: _ModelArgument,
    out: _FolderArgument,
    shard_size: _ShardOption = 5.0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """A folder for vLLM: Q4 as 4-bit integers in groups of 32 (pack-quantized), the rest as floats.

    \b
    Examples:
      cg export compressed-tensors codegemma-2b-q4 ./codegemma-2b-w4a16
      cg export compressed-tensors demo-q4 ./demo-w4a16 --overwrite --json
    """
    folder = registry.resolve(model)

    from cg.quant.export import export_compressed_tensors

    convert = partial(export_compressed_tensors, folder, out, shard_bytes=int(shard_size * _GB))
    run(partial(convert, overwrite=overwrite), "scales and weights", json=json)
