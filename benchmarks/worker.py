"""The worker's side of the conversation: JSON lines in, JSON lines out, one engine in one process.

``{"do": "prompt", "ids": [...]}`` calls the engine's method ``prompt`` with the rest as keywords, and its
result is the answer. An exception is answered as ``{"error": ...}`` and ends the process. Workers are started
as scripts in environments that know neither each other nor (but for one) cg.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

__all__ = ["serve"]


def serve(engine: Any) -> None:
    """Answer requests until standard input ends."""
    # Whatever a library prints must not get between the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        print(json.dumps({"ready": engine.describe()}), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = {"result": getattr(engine, request.pop("do"))(**request)}
            except Exception:
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)
            if "error" in answer:
                sys.exit(1)
