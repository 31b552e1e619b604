"""What the client's exceptions mean to the user: one CgError for each, with what to do about it.

The HTTP library under huggingface_hub has changed (httpx in 1.x, httpx2 in 2.x), therefore its exceptions
are told apart by their class names, not by imported classes. No message contains a token: only status
codes, the server's own words and addresses without their query are used.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cg.runtime.errors import (
    CgError,
    DiskFullError,
    GatedModelError,
    HubError,
    InvalidTokenError,
    ModelNotFoundError,
    NetworkError,
    OutputError,
    UsageError,
)

__all__ = ["Attempt", "is_transient", "retry_after", "translate"]

_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT = frozenset({"TimeoutException", "NetworkError", "RemoteProtocolError"})
_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})  # no EDQUOT on some systems
_AGAIN = "run the command again: it goes on where it stopped"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was tried: needed for a message that helps. ``url`` is the Hub's, a web address."""

    repo_id: str
    revision: str | None
    url: str
    has_token: bool
    cache: Path

    @property
    def host(self) -> str:
        """The Hub's host and port, without a name and password that the address may hold."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def endpoint(self) -> str:
        """The Hub's address, fit to be shown."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=self.host).geturl()

    @property
    def page(self) -> str:
        """The model's page, where a licence is accepted."""
        return f"{self.endpoint}/{self.repo_id}"


def is_transient(error: BaseException, *, answered: bool = False) -> bool:
    """Whether the same request may succeed a moment later; if ``answered``, only if the server says so."""
    for link in _chain(error):
        if (status := _status(link)) is not None:
            return status in _TRANSIENT_STATUS
        if not answered and _class_names(link) & _TRANSIENT:
            return True
    return False


def retry_after(error: BaseException) -> float | None:
    """Seconds that the server asks to wait, if it says so."""
    for link in _chain(error):
        value = getattr(getattr(link, "response", None), "headers", {}).get("Retry-After", "")
        if value.isdigit():
            return float(value)
    return None


def translate(error: BaseException, attempt: Attempt) -> CgError:
    """The error to raise instead of one of huggingface_hub's, the HTTP library's or the system's."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, CgError):
            return link
        if (status := _status(link)) is not None:
            return _refused(link, status, attempt)
    for explain in (_precisely, _roughly):
        for link in chain:
            if (found := explain(link, attempt)) is not None:
                return found
    if isinstance(error, ValueError):
        return HubError(
            f"{attempt.endpoint} answers, but not like a Hub: {type(error).__name__}",
            hint="check HF_ENDPOINT, and whether a login page of the network stands in between",
        )
    return HubError(f"downloading {attempt.repo_id} failed: {type(error).__name__}: {error}")


def _refused(error: BaseException, status: int, attempt: Attempt) -> CgError:
    """The server answered, with an error."""
    names = _class_names(error)
    said = getattr(error, "server_message", None) or ""
    login = "log in with `hf auth login`, or set HF_TOKEN or --token"
    if status == 401 and "invalid credentials" in said.lower():
        return _bad_token(attempt)
    if "GatedRepoError" in names and attempt.has_token:
        return GatedModelError(
            f"{attempt.repo_id} is gated and this account has not been granted access",
            hint=f"accept the licence at {attempt.page} with the account that the token belongs to",
        )
    if "GatedRepoError" in names:
        return GatedModelError(
            f"{attempt.repo_id} is gated: it needs an account that has accepted its licence",
            hint=f"accept the licence at {attempt.page}, then {login} ({attempt.endpoint}/settings/tokens)",
        )
    if "RevisionNotFoundError" in names:
        return ModelNotFoundError(
            f"{attempt.repo_id} has no revision {attempt.revision!r}",
            hint=f"branches and tags: {attempt.page}/tree/main",
        )
    if "EntryNotFoundError" in names:
        path = urlsplit(str(getattr(getattr(error, "response", None), "url", ""))).path
        return ModelNotFoundError(f"{attempt.repo_id} lists a file that it does not have: {path}")
    if "RepositoryNotFoundError" in names or status == 404 or (status == 401 and not attempt.has_token):
        private = "" if attempt.has_token else f"; for a private one {login}"
        return ModelNotFoundError(
            f"{attempt.endpoint} has no model {attempt.repo_id}", hint=f"check the name{private}"
        )
    if status == 401:
        return _bad_token(attempt)
    if status == 403:
        return InvalidTokenError(
            f"the access token may not read {attempt.repo_id}: {said or 'forbidden'}",
            hint=f"give it read access, for gated repositories too: {attempt.endpoint}/settings/tokens",
        )
    if status == 429:
        wait = retry_after(error)
        after = f" in {wait:.0f} s" if wait is not None else " later"
        free = "" if attempt.has_token else "; with a login the limit is higher"
        return HubError(
            f"{attempt.endpoint} refuses more requests for now (429)", hint=f"try again{after}{free}"
        )
    if status >= 500:
        return HubError(f"{attempt.endpoint} has a fault of its own ({status})", hint=f"later: {_AGAIN}")
    return HubError(f"{attempt.endpoint} refused with status {status}: {said or 'no reason given'}")


def _bad_token(attempt: Attempt) -> InvalidTokenError:
    return InvalidTokenError(
        f"{attempt.endpoint} does not accept the access token",
        hint=f"make one at {attempt.endpoint}/settings/tokens; it may come from --token, HF_TOKEN or a login",
    )


def _precisely(error: BaseException, attempt: Attempt) -> CgError | None:
    """Causes that the system names, wherever they stand in the chain."""
    host = attempt.host
    if isinstance(error, ssl.SSLError):
        return NetworkError(
            f"no secure connection to {host}: {error.reason or error}",
            hint="check the clock, the proxy and the certificates",
        )
    if isinstance(error, socket.gaierror):
        return NetworkError(
            f"{host} cannot be found (DNS)", hint="check the network, and HF_ENDPOINT if it is set"
        )
    if isinstance(error, ConnectionRefusedError):
        return NetworkError(f"{host} refuses the connection", hint="check HF_ENDPOINT and the proxy settings")
    if isinstance(error, OSError) and error.errno in _FULL:
        return DiskFullError(
            f"no space left for {attempt.repo_id} in {attempt.cache}", hint=f"free some, then {_AGAIN}"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return OutputError(
            f"cannot write {error.filename}: {error.strerror}", hint="HF_HUB_CACHE sets another cache folder"
        )
    return None


def _roughly(error: BaseException, attempt: Attempt) -> CgError | None:
    """Kinds of failure, by the names that the libraries give them."""
    names = _class_names(error)
    host = attempt.host
    if "OfflineModeIsEnabled" in names:
        return NetworkError("offline mode forbids a download", hint="unset HF_HUB_OFFLINE")
    if "HFValidationError" in names:
        return UsageError(str(error))
    if "ProxyError" in names:
        return NetworkError(
            f"the proxy does not connect to {host}: {error}", hint="check HTTPS_PROXY and NO_PROXY"
        )
    if names & {"TimeoutException", "TimeoutError"}:
        return NetworkError(f"{host} did not answer in time", hint=_AGAIN)
    if names & {"TransportError", "ConnectionError"}:
        return NetworkError(f"the connection to {host} broke: {error or type(error).__name__}", hint=_AGAIN)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _class_names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}
