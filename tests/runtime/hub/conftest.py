"""A local Hub for the tests of this folder, and a client that does not wait between its attempts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cg.runtime.hub import patience


def _load_hub_server() -> ModuleType:
    if "hub_server" in sys.modules:
        return sys.modules["hub_server"]
    path = Path(__file__).with_name("hub_server.py")
    spec = importlib.util.spec_from_file_location("hub_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


hub_server = _load_hub_server()


@pytest.fixture
def hub(isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running Hub that HF_ENDPOINT names; no token from this machine reaches it."""
    from huggingface_hub import close_session, constants

    # Read by huggingface_hub when it is imported, so the environment comes too late.
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(isolated_home / "huggingface" / "token"))
    monkeypatch.setattr(patience, "BACKOFF", (0.0,) * 5)
    with hub_server.serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        close_session()
