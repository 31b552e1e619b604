"""The Typer app: commands, global options, errors to exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cg import __version__
from cg.cli import output, settings
from cg.cli.commands import export, import_, models
from cg.cli.commands.bench import bench
from cg.cli.commands.chat import chat
from cg.cli.commands.compare import compare
from cg.cli.commands.complete import complete
from cg.cli.commands.demo import demo
from cg.cli.commands.download import download
from cg.cli.commands.inspect import inspect
from cg.cli.commands.optimize import optimize
from cg.cli.commands.quantize import quantize
from cg.cli.commands.verify import verify
from cg.cli.guard import QuietOption, VerboseOption, errors_told, guarded

__all__ = ["app", "main"]

app = typer.Typer(
    name="cg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Run CodeGemma on a machine without a GPU: download, quantize, verify, complete.",
    epilog="Exit codes: 0 done, 1 a threshold was missed or another failure, 2 usage or prompt, 3 malformed "
    "file, 4 output cannot be written, 5 Hub, 6 backend, 130 interrupted.",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        output.emit(f"cg {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and leave."),
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    with errors_told():
        values = settings.read() | {"quiet": quiet, "verbose": verbose}
        context.default_map = settings.default_map(context.command, values)


for _command in (complete, chat, quantize, verify, compare, optimize, download, inspect, bench, demo):
    app.command(name=_command.__name__)(guarded(_command))
for _name, _group in {"export": export.app, "import": import_.app, "models": models.app}.items():
    for _info in (*_group.registered_commands, _group.registered_callback):
        if _info is not None and _info.callback is not None:
            _info.callback = guarded(_info.callback)
    app.add_typer(_group, name=_name)


def main() -> None:
    """Entry point of the ``cg`` script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")  # code is UTF-8 on every system
    app()
