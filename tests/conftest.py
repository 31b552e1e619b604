"""Fixtures for the whole suite: where the test data lies, and a home folder of its own for every test."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

import cg.runtime

# Test modules open tokenizers as they are imported, before any fixture: what that keeps goes elsewhere than
# into the developer's own folder.
os.environ["CG_HOME"] = tempfile.mkdtemp(prefix="cg-tests-")
atexit.register(shutil.rmtree, os.environ["CG_HOME"], ignore_errors=True)

# A shell's background jobs ignore Ctrl-C, and their children inherit that; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

_TESTS = Path(__file__).parent
_OWN_VARIABLES = ("CG_", "HF_", "HUGGING", "XDG_")
_LOOKS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "CLICOLOR", "CLICOLOR_FORCE")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Checkpoints and results that other programs wrote; see tests/golden/README.md."""
    return _TESTS / "golden"


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of the bundled model."""
    return Path(cg.runtime.__file__).parent / "demo"


@pytest.fixture(autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder; no setting of the developer's machine reaches a test, and no test the Hub.

    CG_FORCE_ISA stays, so that the whole suite can be run on one instruction set.
    """
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name != "CG_FORCE_ISA" and (name.startswith(_OWN_VARIABLES) or name in _LOOKS):
            monkeypatch.delenv(name)
    places = {
        "HOME": home,
        "USERPROFILE": home,
        "APPDATA": home / "appdata",
        "CG_HOME": home / "cg",
        "HF_HOME": home / "huggingface",
        "XDG_CACHE_HOME": home / "cache",
        "XDG_CONFIG_HOME": home / "config",
        "XDG_DATA_HOME": home / "data",
    }
    for name, place in places.items():
        monkeypatch.setenv(name, str(place))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody answers
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return home


@pytest.fixture
def failing_isa(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a better instruction set than portable, whose kernels fail their self-test."""
    from cg.runtime import _native

    monkeypatch.delenv("CG_FORCE_ISA", raising=False)
    monkeypatch.setattr(_native, "isas", lambda: [("portable", True), ("avx9", True)])
    monkeypatch.setattr(_native, "best_isa", lambda: "portable")
    monkeypatch.setattr(_native, "isa_failure", {"avx9": "rotation"}.get)
    return "avx9"
