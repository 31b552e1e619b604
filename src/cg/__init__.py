"""cg: run CodeGemma on a machine without a GPU.

The library lives in three packages: :mod:`cg.runtime` (formats, kernels, models, generation),
:mod:`cg.quant` (quantizing and verifying) and :mod:`cg.cli` (the ``cg`` command).
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
