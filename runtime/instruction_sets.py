"""Instruction sets of the compiled kernels that cannot be used, and what is said about them.

``supported`` are the sets of this build, worst first, each with whether this machine has it; ``failure`` runs
the self-test of one that it has and gives what its kernels get wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cg.runtime.errors import BackendError

__all__ = ["FORCE_ISA", "check", "failed", "refused"]

FORCE_ISA = "CG_FORCE_ISA"
"""Environment variable that names the instruction set to use instead of the best one."""

_Supported = Sequence[tuple[str, bool]]
_Failure = Callable[[str], str | None]


def check(isa: str, where: str, supported: _Supported, failure: _Failure) -> str:
    """A wished-for set, if it can be used; ``where`` names the wish.

    Raises:
        BackendError: this build or this machine does not have it, or its self-test fails.
    """
    known = dict(supported)
    if isa not in known:
        reason = "this build has no such instruction set"
    elif not known[isa]:
        reason = "this machine does not support it"
    elif (wrong := failure(isa)) is None:
        return isa
    else:
        reason = f"{failed({isa: wrong})}: it would compute wrong results"
    usable = ", ".join(name for name, can in supported if can and failure(name) is None)
    raise BackendError(f"{where}: {reason}", hint=f"use one of {usable}")


def refused(best: str, supported: _Supported, failure: _Failure) -> dict[str, str]:
    """Sets better than the best that works, best first, each with what its kernels get wrong."""
    names = [name for name, can in supported if can]
    better = names[names.index(best) + 1 :]
    return {name: wrong for name in reversed(better) if (wrong := failure(name))}


def failed(failures: Mapping[str, str]) -> str:
    """Names of instruction sets with what their kernels get wrong, as a sentence."""
    return " and ".join(f"{isa} failed its self-test ({wrong})" for isa, wrong in failures.items())
