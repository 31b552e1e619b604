"""Running CodeGemma: formats, kernels, the model, generation.

    >>> import cg.runtime
    >>> model = cg.runtime.load("codegemma-2b-q4")
    >>> model.complete("def add(a, b):\\n    return ", "\\n").text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cg.runtime.generate import Completion, Model, TextStream, Timings, load
    from cg.runtime.prompts.chat import Message
    from cg.runtime.prompts.fim import ContextFile
    from cg.runtime.sampling import SamplingOptions

__all__ = ["Completion", "ContextFile", "Message", "Model", "SamplingOptions", "TextStream", "Timings", "load"]

_HOMES = {
    "ContextFile": "cg.runtime.prompts.fim",
    "Message": "cg.runtime.prompts.chat",
    "SamplingOptions": "cg.runtime.sampling",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that importing one submodule (errors, the registry) does not import numpy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "cg.runtime.generate")), name)
