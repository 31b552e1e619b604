"""Deleting from the Hugging Face cache the way huggingface_hub does it."""

from __future__ import annotations

import shutil

from cg.runtime.hub import hf_cache
from cg.runtime.hub.model_folder import folder_size

__all__ = ["delete"]


def delete(repo_id: str, commit: str | None = None) -> int:
    """Delete one commit of a model, or all of it with what interrupted downloads left; the bytes freed.

    Files that another revision still needs stay.
    """
    from huggingface_hub import scan_cache_dir

    cache = hf_cache.hub_cache()
    folder = hf_cache.repo_folder(repo_id)
    repos = [r for r in scan_cache_dir(cache).repos if r.repo_type == "model" and r.repo_id == repo_id]
    freed = 0
    for repo in repos:
        commits = [r.commit_hash for r in repo.revisions if commit in (None, r.commit_hash)]
        strategy = scan_cache_dir(cache).delete_revisions(*commits)
        freed += strategy.expected_freed_size
        strategy.execute()
    if commit is None and folder.is_dir():  # unfinished parts, which the strategy does not know
        freed += folder_size(folder)
        shutil.rmtree(folder)
    return freed
