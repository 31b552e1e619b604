"""What ``cg complete`` says about a completion besides its text."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cg.runtime import Completion

__all__ = ["as_json", "timings_line"]


def timings_line(result: Completion) -> str:
    """Tokens, speed and why it ended, in one line."""
    t = result.timings
    return (
        f"{t.prompt_tokens} prompt tokens ({t.cached_tokens} cached) in {t.prompt_seconds:.2f} s, "
        f"{t.generated_tokens} generated at {t.generated_per_second:.1f}/s, stopped by {result.stop_reason}"
    )


def as_json(result: Completion) -> dict[str, Any]:
    """Plain values for ``--json``."""
    t = result.timings
    rates = {"prompt_per_second": t.prompt_per_second, "generated_per_second": t.generated_per_second}
    return {
        "text": result.text,
        "token_ids": result.ids,
        "stop_reason": result.stop_reason,
        "notes": result.notes,
        "timings": asdict(t) | rates,
    }
