"""The loop of ``cg chat``: turns, commands, interruptions."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cg.cli import output
from cg.runtime.errors import CgError, OutputError, UsageError

if TYPE_CHECKING:
    from cg.runtime import Message, Model, SamplingOptions

__all__ = ["HELP", "Conversation"]

HELP = "/reset starts over, /save FILE writes the conversation as JSON, /quit or Ctrl-D leaves."


class Conversation:
    """The turns so far, and the loop that adds to them."""

    def __init__(self, engine: Model, sampling: SamplingOptions, max_tokens: int) -> None:
        self.engine = engine
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.messages: list[Message] = []

    def run(self) -> None:
        """Read turns until the input ends; an error is fatal only where nobody can react to it."""
        interactive = sys.stdin.isatty()
        while (line := _read_turn(interactive)) is not None:
            try:
                if line.startswith("/"):
                    if not self.command(line):
                        return
                elif line.strip():
                    self.turn(line)
            except CgError as error:
                if not interactive:
                    raise
                output.error(error.message, error.hint)

    def turn(self, text: str) -> None:
        """One question and its answer; Ctrl-C ends the answer, and what was said of it stays."""
        from cg.runtime import Message

        pending = [*self.messages, Message("user", text)]
        answer: list[str] = []
        stream = self.engine.chat(pending, max_tokens=self.max_tokens, sampling=self.sampling)
        try:
            for piece in stream:
                answer.append(piece)
                output.emit(piece, end="")
        except KeyboardInterrupt:
            stream.close()
            output.note("\n(stopped)")
        output.emit("")
        # A turn that was stopped before it said anything did not happen: roles must alternate.
        if answer:
            self.messages = [*pending, Message("assistant", "".join(answer))]

    def command(self, line: str) -> bool:
        """Run a /command; False means leave."""
        name, _, argument = line.strip().partition(" ")
        if name in ("/quit", "/exit", "/bye"):
            return False
        if name == "/reset":
            self.messages.clear()
            output.note("The conversation starts over.")
        elif name == "/save":
            self.save(argument.strip())
        elif name == "/help":
            output.note(HELP)
        else:
            raise UsageError(f"unknown command {name}", hint=HELP)
        return True

    def save(self, name: str) -> None:
        """Write the conversation as JSON in the shape that chat APIs use."""
        if not name:
            raise UsageError("/save needs a file name", hint="/save conversation.json")
        messages = [{"role": m.role, "content": m.content} for m in self.messages]
        try:
            # "x": a conversation never overwrites a file by a slip of the fingers.
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                json.dump({"messages": messages}, file, indent=2, ensure_ascii=False)
                file.write("\n")
        except OSError as error:
            raise OutputError(f"cannot write {name}: {error.strerror or error}") from error
        output.note(f"Saved {len(messages)} messages to {name}.")


def _read_turn(interactive: bool) -> str | None:
    """The next line without its end, or None at the end of input."""
    if not interactive:
        return line.rstrip("\r\n") if (line := sys.stdin.readline()) else None
    if "readline" not in sys.modules:
        with suppress(ImportError):  # Windows consoles edit lines themselves
            import readline  # noqa: F401 (line editing and history for input())
    while True:
        try:
            return input("> ")
        except EOFError:
            output.note("")
            return None
        except KeyboardInterrupt:
            output.note("\n(Ctrl-D or /quit leaves)")
