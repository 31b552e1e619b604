"""Packages that only some of the exports need: the extra ``gguf``."""

from __future__ import annotations

from typing import Any

from cg.runtime.errors import UsageError

__all__ = ["gguf_package", "sentencepiece_protobuf"]


def gguf_package() -> Any:
    """llama.cpp's package ``gguf``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise _missing("gguf") from None
    return gguf


def sentencepiece_protobuf() -> Any:
    """The message classes of a ``tokenizer.model``, which need the package ``protobuf``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise _missing("protobuf") from None
    return sentencepiece_model_pb2


def _missing(package: str) -> UsageError:
    return UsageError(
        f"this needs the package {package}, which is not installed",
        hint="pip install 'codegemma-cg[gguf]'",
    )
