"""What every command has in common: ``--quiet`` and ``--verbose``, and errors turned into exit codes."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from cg.cli import output
from cg.runtime.errors import CgError

__all__ = ["QuietOption", "VerboseOption", "errors_told", "guarded"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress bars.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="More about what happens.")]


@contextmanager
def errors_told() -> Iterator[None]:
    """Tell an error on standard error, without a traceback, and leave with its exit code."""
    try:
        yield
    except CgError as error:
        output.error(error.message, error.hint)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        output.error("interrupted", None)
        raise typer.Exit(_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader (head, a closed pager) has gone: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (OSError, MemoryError) as error:
        output.error(str(error) or "out of memory", None)
        raise typer.Exit(1) from None


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the common options and its errors told."""

    def run(*args: Any, quiet: bool, verbose: bool, **kwargs: Any) -> None:
        output.set_verbosity(quiet=quiet, verbose=verbose)
        with errors_told():
            command(*args, **kwargs)
            sys.stdout.flush()

    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in (("quiet", QuietOption), ("verbose", VerboseOption))
    ]
    own = inspect.signature(command, eval_str=True)
    signature = own.replace(parameters=[*own.parameters.values(), *common])
    # Typer reads a command's options from these.
    vars(run)["__signature__"] = signature
    run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
