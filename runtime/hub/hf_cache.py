"""The Hugging Face cache on disk, read without the network and without huggingface_hub.

Layout (https://huggingface.co/docs/huggingface_hub/guides/manage-cache)::

    <hub cache>/models--ORG--NAME/refs/main                  text: a commit
                                 /snapshots/COMMIT/FILE      link to a blob (a plain file on Windows)
                                 /blobs/ETAG                 the bytes; ETAG.incomplete while they arrive
"""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = [
    "cached_repos",
    "find_commit",
    "hub_cache",
    "is_plain_revision",
    "refs_by_commit",
    "repo_folder",
    "snapshot_folder",
]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_REPO_FOLDER = re.compile(r"models--(?P<org>[^/\\]+?)--(?P<name>[^/\\]+)")


def hub_cache() -> Path:
    """The Hub's cache: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(variable):
            return _expanded(value)
    if value := os.environ.get("HF_HOME"):
        return _expanded(value) / "hub"
    caches = os.environ.get("XDG_CACHE_HOME")
    return (_expanded(caches) if caches else Path.home() / ".cache") / "huggingface" / "hub"


def repo_folder(repo_id: str) -> Path:
    """Where the cache keeps a model repository, whether or not it is there."""
    return hub_cache() / f"models--{repo_id.replace('/', '--')}"


def snapshot_folder(repo_id: str, commit: str) -> Path:
    """Where the cache keeps one commit's files, whether or not they are there."""
    return repo_folder(repo_id) / "snapshots" / commit


def find_commit(repo_id: str, revision: str | None = None) -> str | None:
    """The commit that a branch, tag or (shortened) commit stands for in the cache; None if unknown."""
    snapshots = repo_folder(repo_id) / "snapshots"
    revision = revision or "main"
    if _COMMIT.fullmatch(revision):
        return revision if (snapshots / revision).is_dir() else None
    if is_plain_revision(revision):
        ref = repo_folder(repo_id) / "refs" / revision
        commit = _read_ref(ref)
        if commit is not None:
            return commit
    if _SHORT_COMMIT.fullmatch(revision) and snapshots.is_dir():
        matches = [entry.name for entry in snapshots.iterdir() if entry.name.startswith(revision)]
        return matches[0] if len(matches) == 1 else None
    return None


def refs_by_commit(repo_id: str) -> dict[str, list[str]]:
    """Every snapshot in the cache with the branches and tags that point at it."""
    folder = repo_folder(repo_id)
    snapshots = folder / "snapshots"
    found: dict[str, list[str]] = {}
    if snapshots.is_dir():
        found = {entry.name: [] for entry in sorted(snapshots.iterdir()) if _COMMIT.fullmatch(entry.name)}
    refs = folder / "refs"
    for ref in sorted(refs.rglob("*")) if refs.is_dir() else []:
        commit = _read_ref(ref)
        if commit in found:
            found[commit].append(ref.relative_to(refs).as_posix())
    return found


def cached_repos() -> list[str]:
    """Ids of the model repositories in the cache, complete or not, sorted."""
    cache = hub_cache()
    if not cache.is_dir():
        return []
    matches = [_REPO_FOLDER.fullmatch(entry.name) for entry in cache.iterdir() if entry.is_dir()]
    return sorted(f"{match['org']}/{match['name']}" for match in matches if match)


def _read_ref(path: Path) -> str | None:
    try:
        commit = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def is_plain_revision(revision: str) -> bool:
    """Whether a revision stays inside the refs folder when used as a path."""
    parts = revision.split("/")
    return "\\" not in revision and "\0" not in revision and not any(p in ("", ".", "..") for p in parts)


def _expanded(value: str) -> Path:
    return Path(os.path.expandvars(value)).expanduser()
