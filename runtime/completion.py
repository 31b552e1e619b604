"""What a generation gives back: the stream, the text and its timings."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from cg.runtime.errors import UsageError

__all__ = ["Completion", "TextStream", "Timings"]


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one completion went; seconds."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the key-value cache already held."""
    generated_tokens: int
    """Tokens that were decoded, a stop token included."""
    prompt_seconds: float
    """From the start to the first token: the prompt and the first choice."""
    generation_seconds: float
    """From the first token to the last."""

    @property
    def prompt_per_second(self) -> float:
        """Prompt tokens computed per second; 0 when none was."""
        return _rate(self.prompt_tokens - self.cached_tokens, self.prompt_seconds)

    @property
    def generated_per_second(self) -> float:
        """Tokens per second after the first; 0 when there was only one."""
        return _rate(self.generated_tokens - 1, self.generation_seconds)


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of one generation."""

    text: str
    ids: list[int]
    """The tokens of the text, without the stop token."""
    stop_reason: str
    """``stop_token``, ``stop_string``, ``length`` (max_tokens reached) or ``context`` (context full)."""
    notes: list[str]
    """What had to be cut from the prompt to make it fit."""
    timings: Timings


class TextStream(Iterator[str]):
    """Pieces of text as they are generated; :attr:`result` once they have ended."""

    def __init__(self, run: Generator[str, None, Completion], notes: Sequence[str] = ()) -> None:
        self.notes = list(notes)
        self._run = run
        self._result: Completion | None = None

    def __next__(self) -> str:
        try:
            return next(self._run)
        except StopIteration as stop:
            self._result = self._result or stop.value
            raise

    @property
    def result(self) -> Completion:
        """The whole completion; runs the rest of the stream if it has not ended."""
        for _ in self:
            pass
        if self._result is None:
            raise UsageError("the stream was closed before it ended")
        return self._result

    def close(self) -> None:
        """Stop generating."""
        self._run.close()


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
