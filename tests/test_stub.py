"""The extension's stub is what the extension says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_TOOL = Path(__file__).parent.parent / "tools" / "make_stub.py"


def test_stub_is_up_to_date() -> None:
    run = subprocess.run([sys.executable, str(_TOOL), "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
