"""The two C libraries of the ggml family behind one small interface: where they differ stands here."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Library", "open_library"]


@dataclass(frozen=True, slots=True)
class Library:
    """One library: its ctypes module, and what is called or set differently in the other."""

    api: Any
    package: str
    settings: dict[str, Any]
    model_params: Callable[[], Any]
    context_params: Callable[[], Any]
    truncate: Callable[[Any, int], Any]
    """Forget every token of a context from this position on."""
    synchronize: Callable[[Any], None]
    system_info: Callable[[], str]
    """What the library was compiled with."""


def open_library(kind: str) -> Library:
    """``llama`` (llama-cpp-python) or ``ik`` (ik-llama-cpp-python), from the environment that runs this."""
    return _llama() if kind == "llama" else _ik()


def _llama() -> Library:
    from llama_cpp import llama_cpp as api

    settings = {"flash_attn": "on", "repacking": "at load (default)", "load_mode": "default"}

    def model_params() -> Any:
        return api.llama_model_default_params()

    def context_params() -> Any:
        params = api.llama_context_default_params()
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED
        return params

    def truncate(context: Any, length: int) -> None:
        api.llama_memory_seq_rm(api.llama_get_memory(context), -1, length, -1)

    return Library(
        api, "llama-cpp-python", settings, model_params, context_params,
        truncate, api.llama_synchronize, lambda: _present(api.llama_print_system_info()),
    )  # fmt: skip


def _ik() -> Library:
    from ik_llama_cpp import _ctypes_api as api

    c = api._lib  # the package binds only what it uses itself
    c.llama_synchronize.argtypes = [ctypes.c_void_p]
    c.llama_synchronize.restype = None
    c.llama_kv_cache_seq_rm.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]
    c.llama_kv_cache_seq_rm.restype = ctypes.c_bool
    c.llama_print_system_info.argtypes = []
    c.llama_print_system_info.restype = ctypes.c_char_p
    settings = {"flash_attn": "on", "run-time repacking": "on", "fused operations": "on (default)"}

    def model_params() -> Any:
        params = api.llama_model_default_params()
        params.repack_tensors = True
        params.use_mmap = False  # repacking in place needs memory of its own
        return params

    def context_params() -> Any:
        params = api.llama_context_default_params()
        params.flash_attn = True
        return params

    def truncate(context: Any, length: int) -> None:
        c.llama_kv_cache_seq_rm(context, -1, length, -1)

    return Library(
        api, "ik-llama-cpp-python", settings, model_params, context_params,
        truncate, c.llama_synchronize, lambda: _present(c.llama_print_system_info()),
    )  # fmt: skip


def _present(system_info: bytes) -> str:
    """The names behind which the library prints ``= 1``."""
    return ", ".join(re.findall(r"(\w+) = 1", system_info.decode()))
