"""Fetching one large file of a repository so that an interrupted transfer can go on later.

huggingface_hub starts a file over when the process that fetched it has died (its partial files carry
random names since 1.18). At several gigabytes a file this module therefore moves the bytes itself, with the
client's own session and headers: the part lies beside the blob as ``<blob>.incomplete``, is continued with
an HTTP Range request, and becomes the blob only when its SHA-256 is the one that the Hub lists.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from cg.runtime.errors import NetworkError
from cg.runtime.hub import patience
from cg.runtime.hub.hub_errors import is_transient, retry_after

__all__ = ["Blob", "TransferStopped", "fetch_blob", "part_size"]

_TIMEOUT = 10.0  # seconds without a byte; also how long Ctrl-C may take when the server is silent
_LONGEST_WAIT = 60.0  # seconds, whatever Retry-After asks for
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class TransferStopped(Exception):  # noqa: N818  (no error: another file failed or the user pressed Ctrl-C)
    """The transfer was told to stop."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file to fetch: where from, where to, and what it must be. ``size`` in bytes."""

    name: str
    url: str
    size: int
    sha256: str
    target: Path

    @property
    def part(self) -> Path:
        """Where the bytes lie until all of them are there."""
        return self.target.with_name(self.target.name + ".incomplete")


def part_size(blob: Blob) -> int:
    """Bytes of an earlier, interrupted transfer that need not be fetched again."""
    try:
        size = blob.part.stat().st_size
    except OSError:
        return 0
    return size if size <= blob.size else 0


def fetch_blob(blob: Blob, headers: dict[str, str], report: Callable[[int], None], stop: Event) -> None:
    """Fetch a blob, continuing what is there; ``report`` is called with the bytes that are there so far.

    Raises the client's exception when an error is final or does not pass, NetworkError when what arrived is
    not the file that the Hub lists, TransferStopped when ``stop`` is set.
    """
    blob.part.parent.mkdir(parents=True, exist_ok=True)
    with _Part(blob) as part:
        resumed = part.size > 0
        report(part.size)
        _receive(blob, part, headers, report, stop)
        if not part.is_intact() and resumed:
            part.restart()  # the leftover was damaged, by a crash of the machine for instance
            _receive(blob, part, headers, report, stop)
        if not part.is_intact():
            part.restart()
            raise NetworkError(
                f"{blob.name} arrived damaged: its SHA-256 is not the one that the Hub lists",
                hint="run the command again; if it stays so, a proxy or mirror changes the file",
            )
        part.sync()
    blob.target.parent.mkdir(parents=True, exist_ok=True)
    blob.part.replace(blob.target)


class _Part:
    """The growing file and the hash of what is in it."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> _Part:
        self._file = self._blob.part.open("a+b")
        self._file.seek(0)
        while chunk := self._file.read(1 << 20):
            self._digest.update(chunk)
            self.size += len(chunk)
        if self.size > self._blob.size:
            self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.size = 0

    def is_intact(self) -> bool:
        return self.size == self._blob.size and self._digest.hexdigest() == self._blob.sha256

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def _receive(
    blob: Blob, part: _Part, headers: dict[str, str], report: Callable[[int], None], stop: Event
) -> None:
    """Requests until all is there; one failure more than there are pauses, without a new byte, is final."""
    failures = 0
    while part.size < blob.size:
        before = part.size
        wait = None
        try:
            _request(blob, part, headers, report, stop)
            error: Exception = NetworkError(f"the connection for {blob.name} ended after {part.size} bytes")
        except Exception as caught:
            if not is_transient(caught):
                raise
            error, wait = caught, retry_after(caught)
        if part.size >= blob.size:
            return
        failures = 1 if part.size > before else failures + 1
        if failures > len(patience.BACKOFF):
            raise error
        if stop.wait(patience.BACKOFF[failures - 1] if wait is None else min(wait, _LONGEST_WAIT)):
            raise TransferStopped


def _request(
    blob: Blob, part: _Part, headers: dict[str, str], report: Callable[[int], None], stop: Event
) -> None:
    """One GET for what is missing; the session follows the Hub's redirect and drops the token on the way."""
    from huggingface_hub import get_session, hf_raise_for_status

    wanted = {**headers, "Accept-Encoding": "identity"}
    if part.size:
        wanted["Range"] = f"bytes={part.size}-"
    session: Any = get_session()  # an httpx client, whichever httpx this huggingface_hub is built on
    with session.stream("GET", blob.url, headers=wanted, timeout=_TIMEOUT, follow_redirects=True) as response:
        hf_raise_for_status(response)
        if part.size and not _continues(response, part.size):
            part.restart()  # the server ignored the Range and sends the file from its beginning
        for chunk in response.iter_bytes():
            if stop.is_set():
                raise TransferStopped
            part.append(chunk[: blob.size - part.size])
            report(part.size)
            if part.size >= blob.size:
                return


def _continues(response: Any, offset: int) -> bool:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return response.status_code == 206 and match is not None and int(match[1]) == offset
