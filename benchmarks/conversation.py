"""The driver's side of the conversation with a worker process, and what Linux says about that process."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Worker", "WorkerError", "settle"]


class WorkerError(Exception):
    """A worker failed; its last words are in the message."""


class Worker:
    """A running worker. :meth:`ask` waits for the answer, so only one worker computes at a time."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start ``command`` and wait until it has loaded; what it says on stderr goes to ``log``."""
        self.name, self._log = name, log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8",
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        self.description: dict[str, Any] = self._answer("ready")

    def ask(self, do: str, **arguments: Any) -> Any:
        """The result of the engine's method ``do``.

        Raises:
            WorkerError: the method raised, or the process died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure("is gone") from error
        return self._answer("result")

    def ask_watched(self, do: str, **arguments: Any) -> int:
        """Ask, and return the peak of the worker's private memory (RssAnon) meanwhile, in bytes."""
        peak, done = self._private_bytes(), threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.005):
                peak = max(peak, self._private_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.ask(do, **arguments)
        finally:
            done.set()
            watcher.join()
        return max(peak, self._private_bytes())

    def cpu_seconds(self) -> float:
        """Processor time that the worker has used, all threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the worker."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, key: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("ended")
        answer = json.loads(line)
        if key not in answer:
            raise WorkerError(f"{self.name}: {answer.get('error', answer)}")
        return answer[key]

    def _failure(self, what: str) -> WorkerError:
        self._process.kill()
        self._process.wait()
        words = self._log.read_text("utf-8", "replace")[-2000:]
        return WorkerError(f"the worker {self.name} {what}:\n{words}")

    def _private_bytes(self) -> int:
        for line in Path(f"/proc/{self._process.pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0


def settle() -> None:
    """Let threads that spin for a moment after their work fall asleep."""
    time.sleep(0.3)
