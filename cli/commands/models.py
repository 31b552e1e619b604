"""``cg models``: what is on this machine."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from cg.cli import output
from cg.cli.options import JsonOption
from cg.cli.output import format_size
from cg.runtime.errors import UsageError
from cg.runtime.hub import registry

__all__ = ["app", "models", "remove"]

app = typer.Typer(no_args_is_help=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def models(context: typer.Context, json: JsonOption = False) -> None:
    """List the models on this machine, or remove one.

    Listed are the bundled model, the models that cg quantized, and the Gemma models in the Hugging Face
    cache. The name is what every other command takes; --json and cg -v models show the folders too.

    \b
    Examples:
      cg models
      cg models --json
      cg models rm codegemma-2b-q4
    """
    if context.invoked_subcommand is not None:
        return
    found = registry.list_models(incomplete=True)
    if json:
        output.emit_json([_as_json(model) for model in found])
        return
    rows = [[m.name, m.kind, m.type, format_size(m.size), m.origin] for m in found]
    output.table("", ["name", "kind", "type", "size", "origin"], rows)
    for model in found:
        output.detail(f"{model.name}: {model.path}")


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that cg models lists.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a model from this machine.

    A model from the Hub leaves the Hugging Face cache, which other programs use too.

    \b
    Examples:
      cg models rm codegemma-2b-q4
      cg models rm google/codegemma-2b --yes
    """
    if name == registry.DEMO:
        registry.remove(name)  # says why not, before anything is asked
    model = registry.find(name)
    if not yes:
        if not _is_interactive():
            raise UsageError(f"not removing {model.name} without a confirmation", hint="add --yes")
        sys.stderr.write(f"Remove {model.name} ({format_size(model.size)}, {model.path})? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            output.note("nothing was removed")
            return
    freed = registry.remove(name)
    output.note(f"removed {model.name}, {format_size(freed)} freed")


def _is_interactive() -> bool:
    return sys.stdin.isatty()


def _as_json(model: registry.LocalModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "kind": model.kind,
        "type": model.type,
        "size_bytes": model.size,
        "origin": model.origin,
        "repo_id": model.repo_id,
        "path": str(model.path),
    }
