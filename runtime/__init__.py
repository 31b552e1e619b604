"""Running CodeGemma: formats, kernels, the model, generation.

>>> import cg.runtime
>>> model = cg.runtime.load("models/codegemma-2b-q4")
>>> model.complete("def add(a, b):\\n    return ", "\\n").text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cg.runtime.completion import Completion, TextStream, Timings
    from cg.runtime.generate import Model, load
    from cg.runtime.prompts.chat import Message
    from cg.runtime.prompts.fim import ContextFile
    from cg.runtime.sampling import SamplingOptions

__all__ = [
    "Completion",
    "ContextFile",
    "Message",
    "Model",
    "SamplingOptions",
    "TextStream",
    "Timings",
    "load",
]

_HOMES = {
    "Completion": "cg.runtime.completion",
    "ContextFile": "cg.runtime.prompts.fim",
    "Message": "cg.runtime.prompts.chat",
    "Model": "cg.runtime.generate",
    "SamplingOptions": "cg.runtime.sampling",
    "TextStream": "cg.runtime.completion",
    "Timings": "cg.runtime.completion",
    "load": "cg.runtime.generate",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that importing one submodule (errors, the registry) does not import numpy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
