"""Asking a busy Hub again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from cg.runtime.hub.hub_errors import is_transient, retry_after

__all__ = ["BACKOFF", "Answer", "ask"]

BACKOFF = (1.0, 2.0, 4.0, 8.0, 8.0)  # seconds before each new attempt
_ATTEMPTS = 4
_LONGEST_WAIT = 30.0  # seconds; a Hub that asks for more gets an error message instead

Answer = TypeVar("Answer")


def ask(request: Callable[[], Answer]) -> Answer:
    """The request's result; repeated while the Hub answers that it is busy or faulty.

    A Hub that cannot be reached at all is not asked twice: the user should hear of that at once.
    """
    for pause in BACKOFF[: _ATTEMPTS - 1]:
        try:
            return request()
        except Exception as error:
            wait = retry_after(error)
            wait = pause if wait is None else wait
            if not is_transient(error, answered=True) or wait > _LONGEST_WAIT:
                raise
            time.sleep(wait)
    return request()
