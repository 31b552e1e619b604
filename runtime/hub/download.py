"""Downloading a model from the Hugging Face Hub into the Hugging Face cache, resumably.

The client (huggingface_hub) lists the repository, fetches the small files and lays out the cache; the large
ones come through :mod:`cg.runtime.hub.transfer`, because the client cannot go on with an interrupted file.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any
from urllib.parse import urlsplit

from cg.runtime.errors import (
    DiskFullError,
    InvalidTokenError,
    ModelNotFoundError,
    NetworkError,
    UsageError,
)
from cg.runtime.hub import hf_cache, registry
from cg.runtime.hub.hub_errors import Attempt, translate
from cg.runtime.hub.listing import Listing, list_files
from cg.runtime.hub.model_folder import CONFIG, missing_files, model_type
from cg.runtime.hub.patience import ask
from cg.runtime.hub.transfer import Blob, fetch_blob, part_size

__all__ = ["DownloadProgress", "ProgressCallback", "download"]

_DEFAULT_ENDPOINT = "https://huggingface.co"
_STREAMS = 4  # files at once; one connection rarely fills a fast line
_SPARE = 64 << 20  # bytes to leave free on the disk
_TOKEN = re.compile(r"[!-~]+")  # visible ASCII: anything else cannot stand in an HTTP header
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Bytes that are here, of one file and of the whole download; what was here before counts."""

    file: str
    file_done: int
    file_size: int
    done: int
    total: int


ProgressCallback = Callable[[DownloadProgress], None]


def download(
    source: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Bring a model (alias, or ``org/name[@revision]``) to this machine; returns its folder.

    Files that are here are not fetched again, and an interrupted one goes on where it stopped. The token is
    ``token``, else HF_TOKEN, else what ``hf auth login`` stored. ``progress`` is called from worker threads,
    one call at a time. Nothing is printed. HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE count.

    Raises a subclass of HubError (gated, not found, token, network), DiskFullError, OutputError, UsageError.
    """
    if source == registry.DEMO:
        return registry.resolve(source)
    model = _wanted(source, revision)
    here = registry.snapshot(model)
    if here is not None and _COMMIT.fullmatch(model.revision or ""):
        return here  # a commit never changes
    if _is_offline():
        if here is not None:
            return here
        raise NetworkError(
            f"{model} is not completely on this machine, and offline mode forbids a download",
            hint="unset HF_HUB_OFFLINE",
        )
    endpoint = _endpoint()
    with _quiet_client():
        usable = _usable_token(token)
        attempt = Attempt(model.repo_id, model.revision, endpoint, usable is not None, hf_cache.hub_cache())
        try:
            folder = _fetch(model, endpoint, usable, progress)
        except Exception as error:
            translated = translate(error, attempt)
            if here is not None and isinstance(translated, NetworkError):
                translated.hint = f"an earlier download of it is complete: {here}"
            raise translated from (None if translated is error else error)
    if missing := missing_files(folder):
        raise ModelNotFoundError(f"{model} is not a model that cg can use; missing: {', '.join(missing)}")
    return folder


def _wanted(source: str, revision: str | None) -> registry.HubModel:
    model = registry.hub_model(source)
    if model is None:
        raise ModelNotFoundError(
            f"{source!r} is neither an alias nor a Hub id",
            hint=registry.suggest(source) or f"a Hub id is ORG/NAME; aliases: {', '.join(registry.ALIASES)}",
        )
    if revision is None or revision == model.revision:
        return model
    if model.revision is not None:
        raise UsageError(f"two revisions: {model.revision!r} in the name and {revision!r}")
    if not hf_cache.is_plain_revision(revision):
        raise UsageError(f"{revision!r} is not a branch, tag or commit")
    return registry.HubModel(model.repo_id, revision)


def _endpoint() -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError("HF_ENDPOINT is not a web address", hint=f"the Hub's own is {_DEFAULT_ENDPOINT}")
    return endpoint


def _is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _usable_token(token: str | None) -> str | None:
    """The token to send, checked here because the HTTP library would print a malformed one in its error."""
    from huggingface_hub import constants, get_token

    if token is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        token = get_token()
    if token is not None and not _TOKEN.fullmatch(token):
        raise InvalidTokenError(
            "the access token is empty or has a blank, a line break or a character that no token has",
            hint="look at --token, HF_TOKEN and the login's file; a token is hf_ and letters",
        )
    return token


def _fetch(
    model: registry.HubModel, endpoint: str, token: str | None, progress: ProgressCallback | None
) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    where: dict[str, Any] = {
        "repo_id": model.repo_id,
        "revision": model.revision,
        "cache_dir": hf_cache.hub_cache(),
        "endpoint": endpoint,
        "token": token or False,
        "library_name": "cg",
    }
    listing = list_files(model, endpoint, token)
    # First, because it is small and tells whether the gigabytes are worth fetching.
    config = Path(ask(lambda: hf_hub_download(filename=CONFIG, **where)))
    if (kind := model_type(config.parent)) != "gemma":
        raise UsageError(f"{model} is of type {kind!r}; cg runs models of type 'gemma' only")
    _fetch_large(model.repo_id, listing, endpoint, token, progress)
    names = [file.name for file in listing.files]
    return Path(ask(lambda: snapshot_download(allow_patterns=names, **where)))


def _fetch_large(
    repo_id: str, listing: Listing, endpoint: str, token: str | None, progress: ProgressCallback | None
) -> None:
    """Fetch the files that the Hub keeps outside git, which are the large ones, to where the client looks."""
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # lazy there

    cache = hf_cache.hub_cache()
    blobs = _large_blobs(repo_id, listing, endpoint)
    with ExitStack() as held:
        # The client's own locks: no two processes write one part. Sorted, so that none waits in a ring.
        for sha256 in sorted(blobs):
            lock = cache / ".locks" / hf_cache.repo_folder(repo_id).name / f"{sha256}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(WeakFileLock(lock))
        pending = [blob for blob in blobs.values() if not blob.target.is_file()]
        _check_space(cache, repo_id, sum(blob.size - part_size(blob) for blob in pending))
        headers = build_hf_headers(token=token or False, library_name="cg")
        _fetch_all(pending, headers, _Meter(listing.size, pending, progress))


def _large_blobs(repo_id: str, listing: Listing, endpoint: str) -> dict[str, Blob]:
    """The large files that are not in the snapshot yet, by hash."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import are_symlinks_supported

    blobs = hf_cache.repo_folder(repo_id) / "blobs"
    snapshot = hf_cache.snapshot_folder(repo_id, listing.commit)
    # Without links (Windows) the client would copy a blob into the snapshot; then the file belongs there.
    has_links = are_symlinks_supported(hf_cache.hub_cache())
    return {
        file.sha256: Blob(
            name=file.name,
            url=hf_hub_url(repo_id, file.name, revision=listing.commit, endpoint=endpoint),
            size=file.size,
            sha256=file.sha256,
            target=blobs / file.sha256 if has_links else snapshot / file.name,
        )
        for file in listing.files
        if file.sha256 is not None and not (snapshot / file.name).is_file()
    }


def _check_space(cache: Path, repo_id: str, needed: int) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed > 0 and free < needed + _SPARE:
        raise DiskFullError(
            f"{repo_id} needs {needed / 1e9:.2f} GB more in {cache}, where {free / 1e9:.2f} GB are free",
            hint="free some space, or set HF_HUB_CACHE to a folder on another disk",
        )


def _fetch_all(blobs: list[Blob], headers: dict[str, str], meter: _Meter) -> None:
    """Fetch several files at once; the first error, or Ctrl-C, stops all of them."""
    stop = Event()
    with ThreadPoolExecutor(_STREAMS, thread_name_prefix="cg-download") as pool:
        try:
            running = {pool.submit(fetch_blob, blob, headers, meter.of(blob), stop) for blob in blobs}
            while running:
                done, running = wait(
                    running, timeout=0.5
                )  # a wait without end cannot be interrupted everywhere
                for future in done:
                    future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class _Meter:
    """Adds up what the transfers report and passes it on, one call at a time."""

    def __init__(self, total: int, pending: list[Blob], progress: ProgressCallback | None) -> None:
        self._total = total
        self._base = total - sum(blob.size for blob in pending)
        self._done = {blob.name: 0 for blob in pending}
        self._progress = progress
        self._lock = Lock()

    def of(self, blob: Blob) -> Callable[[int], None]:
        """What the transfer of one file calls with its bytes so far."""

        def report(done: int) -> None:
            with self._lock:
                self._done[blob.name] = done
                if self._progress is not None:
                    overall = self._base + sum(self._done.values())
                    self._progress(DownloadProgress(blob.name, done, blob.size, overall, self._total))

        return report


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep huggingface_hub from drawing bars and logging: what matters is raised or reported by cg."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # lazy there
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    # An explicit HF_HUB_DISABLE_PROGRESS_BARS, 0 or 1, is the user's wish and cannot be overridden.
    hide = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    logger.setLevel(max(level, logging.ERROR))
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if hide:
            enable_progress_bars()
