"""Deleting from the Hugging Face cache the way huggingface_hub does it."""

from __future__ import annotations

import shutil
from pathlib import Path

from cg.runtime.hub import hf_cache
from cg.runtime.hub.model_folder import folder_size

__all__ = ["delete"]


def delete(repo_id: str, snapshot: Path) -> int:
    """Delete one snapshot of a model and the files that no other snapshot needs; the bytes freed.

    When no snapshot is left (or there never was one), what interrupted downloads left goes too.
    """
    from huggingface_hub import scan_cache_dir

    freed = 0
    cache = scan_cache_dir(hf_cache.hub_cache())
    for repo in cache.repos:
        commits = {revision.commit_hash for revision in repo.revisions} & {snapshot.name}
        if repo.repo_type == "model" and repo.repo_id == repo_id and commits:
            strategy = cache.delete_revisions(*commits)
            freed += strategy.expected_freed_size
            strategy.execute()
    folder = hf_cache.repo_folder(repo_id)
    if not hf_cache.refs_by_commit(repo_id) and folder.is_dir():
        freed += folder_size(folder)
        shutil.rmtree(folder)
    return freed
